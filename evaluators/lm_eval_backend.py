"""The Language Model Evaluation Harness on a model in memory: its thousands of tasks, and parity.

Needs the optional extra `eval` (lm-eval). The harness forces a preloaded model onto one process,
leaves it in evaluation mode and reseeds all random generators; here it does none of that.
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.language_model import LanguageModel

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM


class MissingHarness(ValueError):
    """lm-eval is not installed."""


def run_tasks(
    lm: LanguageModel,
    tasks: Sequence[str | dict[str, Any]],
    *,
    task_folder: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> dict[str, Any]:
    """What the harness reports for `tasks`: results, configs and samples by task name.

    With `task_folder` only the YAML files in it are known, not the harness's own (reading those
    takes seconds). `limit` is the number of documents per task.
    """
    adapter = harness_model(lm)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=None if task_folder is None else str(task_folder),
        include_defaults=task_folder is None,
    )
    with _first_rank():
        results: dict[str, Any] = simple_evaluate(
            model=adapter,
            tasks=list(tasks),
            task_manager=manager,
            limit=limit,
            num_fewshot=num_fewshot,
            bootstrap_iters=0,
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    return results


@contextmanager
def _first_rank() -> Iterator[None]:
    """Hide which worker this is: on all but the first the harness returns nothing.

    Random states are put back: the harness draws from Python's generator.
    """
    before = os.environ.pop("LOCAL_RANK", None)
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
        if before is not None:
            os.environ["LOCAL_RANK"] = before


def harness_model(lm: LanguageModel) -> TemplateLM:
    """`lm` as the harness wants it; raises MissingHarness where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingHarness("lm-eval is not installed: install the extra with gmt-sweep[eval]")
    from evaluators._harness import Harness

    return Harness(lm)
