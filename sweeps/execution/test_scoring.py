"""Score the selected models on the test items, once, after all selection is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.job_queue import Message
from sweeps.execution.test_scores import TestScores
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.report.trial_row import benchmark_entries
from sweeps.storage.errors import UserError

if TYPE_CHECKING:
    from evaluators.benchmark import BenchmarkResult
    from sweeps.execution.worker_groups import WorkerGroups


def score_on_test(
    config: SweepConfig,
    domain: str,
    folder: Path,
    chosen: Mapping[str, str],
    models: Mapping[str, dict[str, Any]],
    groups: WorkerGroups,
) -> TestScores:
    """Score the chosen trials' models on the test items, unless that is already done.

    ``chosen``: role to the key of the trial selected on validation items. ``models``: key to
    ``{"model": ModelConfig, "drop": None or the drop of an update}`` as plain values. Each model
    is one job for a worker group. Scores from an earlier call are reused.
    """
    keys = dict(chosen)
    before = TestScores.read(folder)
    if before.keys == keys:
        return before
    known = {key: role for role, key in before.keys.items()}
    missing = {key: models[key] for key in keys.values() if key not in known}
    fresh = _scored(config, domain, missing, groups)
    entries = {key: before.entries[role] for key, role in known.items()}
    items = {key: before.items.get(role, {}) for key, role in known.items()}
    entries |= {key: result["entries"] for key, result in fresh.items()}
    items |= {key: result["items"] for key, result in fresh.items()}
    scores = TestScores(
        keys,
        {role: entries[key] for role, key in keys.items()},
        {role: items[key] for role, key in keys.items()},
    )
    scores.write(folder)
    return scores


def _scored(
    config: SweepConfig, domain: str, models: dict[str, dict[str, Any]], groups: WorkerGroups
) -> dict[str, dict[str, Any]]:
    shared = {
        "benchmarks": [b.model_dump() for b in config.domains[domain].benchmarks],
        "threads": config.training.threads,
    }
    jobs = [
        {"key": f"{domain}/test/{key}", "scoring": {**source, **shared}}
        for key, source in models.items()
    ]
    return dict(zip(models, completed(groups.run(jobs), "scoring on the test items"), strict=True))


def completed(results: Sequence[Message], what: str) -> Sequence[Message]:
    """The results of jobs that the driver itself submitted.

    Raises:
        UserError: a job found an error in the user's data, or failed.
    """
    for result in results:
        if "refused" in result:
            raise UserError(result["refused"])
        if "failure" in result:
            raise UserError(
                f"{what} failed: {result['failure'].splitlines()[0]}. The trials are kept; run "
                "the same command to retry"
            )
    return results


def score_model(
    model: dict[str, Any],
    drop: dict[str, Any] | None,
    benchmarks: list[dict[str, Any]],
    threads: int | None,
) -> dict[str, Any]:
    """A model's test scores, in total and per item, equal on every rank of the group.

    If the test items have an error, or the model is not finite, returns ``{"refused": sentence}``.
    """
    from sweeps.finetune.derived import load_derived
    from sweeps.finetune.divergence import DivergedError, check_scores, check_weights
    from sweeps.finetune.finetune_config import DropConfig, ModelConfig
    from sweeps.finetune.process_group import Group
    from sweeps.finetune.process_state import preserve_global_state
    from sweeps.finetune.validation import evaluate_model

    group = Group.current()
    device = group.device()
    parsed = [BenchmarkConfig(**benchmark) for benchmark in benchmarks]
    base = ModelConfig(**model)
    dropped = None if drop is None else DropConfig(**drop)
    with preserve_global_state(device, threads):
        loaded, tokenizer = load_derived(base, dropped, device)
        try:
            check_weights(loaded.to(device), group)
            scored = evaluate_model(
                loaded.eval(), tokenizer, parsed, "test", group, add_bos=base.add_bos
            )
            for result in scored.values():
                check_scores(result.score, result.metrics)
        except DivergedError as error:
            return {"refused": f"{model['path']} cannot be scored on the test items: {error}"}
        except ValueError as error:
            return {"refused": str(error)}
    entries: dict[str, float] = {}
    for name, result in scored.items():
        entries |= benchmark_entries(name, result.score, result.standard_error, result.n)
    return {"entries": entries, "items": _items(scored)}


def _items(scored: Mapping[str, BenchmarkResult]) -> dict[str, list[list[Any]]]:
    """Scores per item, with their weights in the benchmark's score, clusters and prompts."""
    from evaluators.comparison import scored_items

    return {
        name: [list(item) for item in scored_items(each.records, each.metric, each.aggregation)]
        for name, each in scored.items()
    }
