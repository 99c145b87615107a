"""The Language Model Evaluation Harness on a model in memory: its tasks, documents and requests.

Needs the optional extra `eval` (lm-eval). The harness's own loop forces a preloaded model onto one
process, leaves it in evaluation mode, reseeds all random generators, and draws demonstrations
document after document; here the requests of all documents are built at once, as it would build
them, so that any part of them can be answered anywhere. See `evaluators.benchmarks.harness`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from evaluators._compat import task_filters
from evaluators.errors import DataError
from evaluators.harness_guards import explained, require_harness, undisturbed
from evaluators.prompt_formats import written
from evaluators.protocol import Aggregation, Changes
from evaluators.split import is_validation

if TYPE_CHECKING:
    from evaluators._lm_eval_adapter import Harness
    from evaluators.benchmark import Split
    from evaluators.language_model import LanguageModel

HELD_OUT = 0.2
FEWSHOT_SEED = 1234  # the harness's own
PROBED = 50
"""Documents that are scored with made-up answers at once, to find out what a task lacks."""
_MADE_UP = {
    "loglikelihood": (-1.0, False),
    "loglikelihood_rolling": -1.0,
    "generate_until": "The answer is 1.",
}


@final
@dataclass(frozen=True)
class Document:
    """A document of a task and the requests it makes, which keep their answers in `resps`.

    `priced` asks for the log-likelihood of the right answer; None where there is no text of it.
    """

    task: Any
    place: str
    requests: list[Any]
    priced: Any

    def values(self) -> dict[str, Any]:
        """The harness's metrics of this document, once its answers are filtered."""
        first = self.requests[0]
        several = len(first.filtered_resps) > 1
        random.seed(self.place)  # some metrics guess where they find no answer
        return {
            f"{metric}/{name}" if several else metric: _plain(value)
            for name in first.filtered_resps
            for metric, value in self.task.process_results(
                first.doc, [each.filtered_resps[name] for each in self.requests]
            ).items()
        }


def harness_model(lm: LanguageModel, ends: Sequence[str] = ()) -> Harness:
    """`lm` as the harness wants it; its answers end before one of `ends`, too.

    Raises MissingHarness where lm-eval is not installed.
    """
    require_harness()
    from evaluators._lm_eval_adapter import Harness

    return Harness(lm, ends)


def open_tasks(name: str, changes: Changes) -> tuple[list[Any], Aggregation]:
    """The tasks called `name`, or of the YAML file of that path, and how they are averaged.

    Raises MissingHarness or DataError: the task, its data, or what it needs is not there.
    """
    require_harness()
    with explained(name), undisturbed():
        found = _manager(name).load(name)
        tasks = list(found["tasks"].values())
        for task in tasks:
            _change(task, changes)
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False):
            raise DataError(
                f"lm_eval:{name} would run generated programs without a sandbox; expected a "
                "benchmark with one, such as humaneval, mbpp, or a YAML file of form pass_at_k"
            )
        if getattr(task, "MULTIMODAL", False):
            raise DataError(f"lm_eval:{name} asks about images or sound; expected a task of text")
    given = ", ".join(changes.decoding())
    if given and not any(task.OUTPUT_TYPE == "generate_until" for task in tasks):
        raise DataError(
            f"lm_eval:{name}: {given}: expected a task that generates text, found none"
        )
    if (changes.top_p or 1.0) < 1.0 and any(map(_is_greedy, tasks)):
        raise DataError(
            f"lm_eval:{name}: top_p {changes.top_p:g}: expected a temperature above 0, or top_p 1 "
            "for greedy decoding"
        )
    rules = [rule for group in found.get("groups", {}).values() for rule in _rules(group)]
    return tasks, "items" if all(rule.weight_by_size for rule in rules) else "groups"


def documents(
    task: Any, split: Split, changes: Changes, limit: int | None = None, tokenizer: Any = None
) -> list[Document]:
    """The documents of `split`, with prompts as the harness makes them for the published ones.

    With a `tokenizer`, they are in the prompt format of `changes`.
    """
    chat: dict[str, Any] = {}
    if tokenizer is not None:
        chat = {
            "apply_chat_template": True,
            "fewshot_as_multiturn": changes.fewshot_as != "text",
            "chat_template": lambda messages, **_: written(
                changes.prompt_format or "chat", tokenizer, messages
            ),
        }
    with explained(task.config.task), undisturbed(), _of_split(task, split):
        task.set_fewshot_seed(
            seed=FEWSHOT_SEED if changes.fewshot_seed is None else changes.fewshot_seed
        )
        task.build_all_requests(limit=limit, system_instruction=changes.system_prompt, **chat)
        several: dict[int, list[Any]] = {}
        for request in task.instances:
            request.resps, request.filtered_resps = [], {}
            several.setdefault(request.doc_id, []).append(request)
        part = "validation/" if split == "validation" and own_validation(task) else ""
        return [
            Document(
                task,
                f"{task.config.task}/{part}{number}",
                requests,
                _priced(task, requests, "" if chat else task.config.target_delimiter),
            )
            for number, requests in several.items()
            if split == "all"
            or own_validation(task)
            or _held(requests[0].doc) == (split != "test")
        ]


def own_validation(task: Any) -> bool:
    """Whether the task itself tells validation from test documents."""
    return bool(task.config.validation_split and task.config.test_split)


def probe(tasks: Sequence[Any]) -> list[str]:
    """The metrics that all tasks have, from the scores of made-up answers to some documents.

    Raises MissingHarness: a metric needs what is not installed.
    """
    names: list[str] | None = None
    for task in tasks:
        some = documents(task, "all", Changes(), PROBED)
        for document in some:
            for request in document.requests:
                request.resps = [_MADE_UP[request.request_type]]
        with explained(task.config.task), undisturbed():
            apply_filters(some)
            found = [document.values() for document in some]
        names = [name for name in found[0] if names is None or name in names]
    return names or []


def apply_filters(asked: Sequence[Document]) -> None:
    """Filter the answers, those of a task together, as its metrics want them."""
    by_task: dict[int, list[Any]] = {}
    for document in asked:
        by_task.setdefault(id(document.task), []).extend(document.requests)
    tasks = {id(document.task): document.task for document in asked}
    for key, requests in by_task.items():
        for each in task_filters(tasks[key]):
            each.apply(requests)


def aggregation_of(task: Any, metric: str) -> Callable[[Sequence[Any]], Any]:
    """How the harness aggregates a metric of `Document.values`."""
    from lm_eval.api.metrics import mean

    known: Mapping[str, Callable[[Sequence[Any]], Any]] = task.aggregation()
    return known.get(metric.partition("/")[0]) or mean


def fingerprint(task: Any) -> str:
    """The hash of a task's definition, wherever its data lie."""
    config = {key: each for key, each in task.dump_config().items() if key != "dataset_kwargs"}
    text = json.dumps([task.VERSION, config], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _index() -> Any:
    """All of the harness's own tasks; reading them takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _manager(name: str) -> Any:
    """What knows the task; DataError names the nearest one."""
    from lm_eval.tasks import TaskManager

    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise DataError(f"lm_eval:{name}: expected a task or the YAML file of one, found none")
        return TaskManager(include_defaults=False)
    if name not in _index().all_tasks:
        near = difflib.get_close_matches(name, _index().all_tasks, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise DataError(f"lm_eval:{name}: lm-eval has no such task.{hint}")
    return _index()


def _rules(group: Any) -> list[Any]:
    return list(group.aggregate_metric_list or ())


def _change(task: Any, changes: Changes) -> None:
    """What the command line of the harness would change in a task."""
    shots = task.config.num_fewshot or 0 if changes.shots is None else changes.shots
    task.set_config("num_fewshot", shots)
    decoding = {
        "max_gen_toks": changes.max_new_tokens,
        "temperature": changes.temperature,
        "top_p": changes.top_p,
        "do_sample": None if changes.temperature is None else changes.temperature > 0,
    }
    given = {key: value for key, value in decoding.items() if value is not None}
    if given and task.OUTPUT_TYPE == "generate_until":
        task.set_config("generation_kwargs", {**(task.config.generation_kwargs or {}), **given})


def _is_greedy(task: Any) -> bool:
    """Whether the task generates texts, and draws none of them at random."""
    options = task.config.generation_kwargs or {}
    draws = options.get("do_sample") is not False and options.get("temperature")
    return task.OUTPUT_TYPE == "generate_until" and not draws


@contextmanager
def _of_split(task: Any, split: Split) -> Iterator[None]:
    """Make the task build requests for `split`.

    Demonstrations of validation documents come from validation documents where the harness would
    take them from those that the score is reported on.
    """
    published = task.config.test_split or task.config.validation_split
    before = task.config.test_split
    sampler = getattr(task, "sampler", None)
    pool = None if sampler is None else (sampler.df, sampler.fewshot_indices)
    try:
        if split == "validation":
            if own_validation(task):
                task.set_config("test_split", task.config.validation_split)
            if sampler is not None and _drawn_from(task, before) == published:
                own = own_validation(task)
                sampler.replace_df([doc for doc in task.eval_docs if own or _held(doc)])
                sampler.fewshot_indices = None
        yield
    finally:
        task.set_config("test_split", before)
        if sampler is not None and pool is not None:
            sampler.replace_df(pool[0])
            sampler.fewshot_indices = pool[1]


def _drawn_from(task: Any, test: str | None) -> str | None:
    """The split that demonstrations come from; None where the task lists them."""
    given = task.config.fewshot_config
    if given is not None and given.split is not None:
        return str(given.split)
    if given is not None and given.samples is not None:
        return None
    return task.config.training_split or task.config.validation_split or test


def _held(doc: Any) -> bool:
    return is_validation(json.dumps(doc, sort_keys=True, default=str), HELD_OUT)


def _priced(task: Any, requests: Sequence[Any], delimiter: str) -> Any:
    """The request for the log-likelihood of the right answer; None where there is no text."""
    from lm_eval.api.instance import Instance

    first = requests[0]
    arguments = first.args
    if first.request_type == "generate_until":
        target = task.doc_to_target(first.doc)
        text = target[0] if isinstance(target, list) and target else target
        if not isinstance(text, str) or not text:
            return None
        arguments = (first.args[0], f"{delimiter}{text}")
    elif task.OUTPUT_TYPE == "multiple_choice":
        arguments = requests[_right(task, first.doc)].args
    kind = "loglikelihood" if len(arguments) == 2 else first.request_type
    return Instance(kind, first.doc, arguments, 0, (task.config.task, first.doc_id, 1))


def _right(task: Any, doc: Any) -> int:
    """The place of the right choice, the first of several; 0 where it is unknown."""
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    target = target[0] if isinstance(target, list) and target else target
    choices = task.doc_to_choice(doc)
    if isinstance(target, str) and target in choices:
        return int(choices.index(target))
    return target if isinstance(target, int) and 0 <= target < len(choices) else 0


def _plain(value: Any) -> Any:
    """A metric's value as JSON has it, NumPy's numbers included."""
    return json.loads(json.dumps(value, default=_unboxed))


def _unboxed(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
