"""Score the selected models on the test items, once, after all selection is done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

from sweeps.config.failure_kinds import cause
from sweeps.execution.job_messages import Ending, Failed, Measured, Refused, Scored, ScoringJob
from sweeps.report.trial_row import benchmark_entries
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError

if TYPE_CHECKING:
    from evaluators.benchmark import BenchmarkResult
    from sweeps.execution.worker_groups import WorkerGroups


FILE = "test_scores.json"


@final
@dataclass(frozen=True)
class TestScores:
    """``entries[role]``: scores as in `StudyData.test_results`; ``keys[role]``: the trial.

    A search has the roles "best" and "sft"; in a fixed design every tested trial is its own role.
    ``items[role][benchmark]``: one [id, score, weight, cluster] per item, for paired comparisons;
    the weight is the item's in the benchmark's score, and older records have no cluster.
    """

    __test__ = False  # pytest would collect it for its name

    keys: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    items: Mapping[str, Mapping[str, list[list[Any]]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The scores of an earlier session; empty if there are none."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        """Write the record atomically, without what is not known (NaN, which JSON has not)."""
        known = {
            role: {name: value for name, value in entries.items() if isfinite(value)}
            for role, entries in self.entries.items()
        }
        text = json.dumps(asdict(replace(self, entries=known)), allow_nan=False)
        atomic_write(folder / FILE, text)


def score_on_test(
    folder: Path, chosen: Mapping[str, ScoringJob], keys: Mapping[str, str], groups: WorkerGroups
) -> TestScores:
    """Score the chosen trials' models on the test items, unless that is already done.

    ``keys``: role to the key of the trial selected on validation items. ``chosen``: the job for
    each such key. Scores from an earlier call are reused.
    """
    keys = dict(keys)
    before = TestScores.read(folder)
    if before.keys == keys:
        return before
    known = {key: role for role, key in before.keys.items()}
    missing = {key: chosen[key] for key in keys.values() if key not in known}
    endings = groups.run(list(missing.values()))
    fresh = dict(
        zip(missing, completed(endings, Scored, "scoring on the test items"), strict=True)
    )
    entries = {key: before.entries[role] for key, role in known.items()}
    items = {key: before.items.get(role, {}) for key, role in known.items()}
    entries |= {key: result.entries for key, result in fresh.items()}
    items |= {key: result.items for key, result in fresh.items()}
    scores = TestScores(
        keys,
        {role: entries[key] for role, key in keys.items()},
        {role: items[key] for role, key in keys.items()},
    )
    scores.write(folder)
    return scores


Wanted = TypeVar("Wanted", Scored, Measured)


def completed(endings: Sequence[Ending], wanted: type[Wanted], what: str) -> list[Wanted]:
    """The results of jobs that the driver itself submitted.

    Raises:
        UserError: a job found an error in the user's data, or failed.
    """
    for ending in endings:
        if isinstance(ending, Refused):
            raise UserError(ending.sentence)
        if isinstance(ending, Failed):
            raise UserError(
                f"{what} failed: {cause(ending.failure)}. The trials are kept; run the same "
                "command to retry"
            )
    return [ending for ending in endings if isinstance(ending, wanted)]


def score_model(job: ScoringJob) -> Scored | Refused:
    """A model's test scores, in total and per item, equal on every rank of the group.

    `Refused` if the test items have an error, or the model is not finite.
    """
    from sweeps.finetune.derived_models import load_derived
    from sweeps.finetune.divergence import DivergedError, check_scores, check_weights
    from sweeps.finetune.model import computing_dtype
    from sweeps.finetune.process_group import Group
    from sweeps.finetune.process_state import preserve_global_state
    from sweeps.finetune.validation import evaluate_model

    group = Group.current()
    device = group.device()
    with preserve_global_state(device, job.threads):
        loaded, tokenizer = load_derived(job.model, job.drop, device)
        try:
            check_weights(loaded.to(device), group)
            scored = evaluate_model(
                loaded.eval(),
                tokenizer,
                list(job.benchmarks),
                "test",
                group,
                add_bos=job.model.add_bos,
                computes_in=computing_dtype(job.model.dtype, device),
            )
            for result in scored.values():
                check_scores(result.score, result.metrics)
        except DivergedError as error:
            return Refused(f"{job.model.path} cannot be scored on the test items: {error}")
        except ValueError as error:
            return Refused(str(error))
    entries: dict[str, float] = {}
    for name, result in scored.items():
        entries |= benchmark_entries(name, result.score, result.standard_error, result.n)
    return Scored(entries, {name: _items_of(result) for name, result in scored.items()})


def _items_of(result: BenchmarkResult) -> list[list[Any]]:
    """Scores per item, with their weights in the benchmark's score, clusters and prompts."""
    from evaluators.paired_comparison import scored_items

    return [list(each) for each in scored_items(result.records, result.metric, result.aggregation)]
