"""A whole study on a real Ray: what a trial computes, and what it must not depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.sweep import StudyResult, paths_for, run
from sweeps.finetune import benchmarks
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.order import DataOrder
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.storage.errors import UserError
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import benchmark, data, point, tree

POINT = point(0.4, 2, 3e-3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, MemoryTracker]:
    """One point, another, and in a second domain, equal to the first, the first point again, each
    trial on the same two data-parallel workers."""
    tracker = MemoryTracker()
    storage = tmp_path_factory.mktemp("two_workers")
    return run(two_worker_config(storage), tracker=tracker), tracker


def two_worker_config(storage: Path) -> SweepConfig:
    # All are masked, so that the best trial, whose weights are kept, is masked.
    search = {"trials": 2, "sampler": "random", "start": [POINT, point(0.4, 1, 1e-3)]}
    resources = {"workers": 2, "cpus_per_worker": 1, "concurrency": 1}
    training = {"examples": 64, "batch": {"mini_batch": 2}, "threads": 1}
    math = {"data": data(), "benchmarks": [benchmark(metric="bits_per_byte")]}
    domains = {"math": math, "again": math}
    changes = {"search": search, "resources": resources, "training": training, "domains": domains}
    return parse_config(tree(storage, **changes))


def test_every_trial_finished_and_was_tracked(
    two_workers: tuple[StudyResult, MemoryTracker],
) -> None:
    result, tracker = two_workers
    for domain in ("math", "again"):
        rows = result.domains[domain].rows
        assert [row.state for row in rows] == ["finished"] * 2
        record = tracker.store[f"small/{domain}"]
        assert record.state == "finished"
        for row in rows:
            trial = record.trials[row.key]
            assert trial.state == "finished"
            assert sorted(trial.points["train/loss"]) == list(range(1, row.steps + 1))
            assert trial.finals["final/score"] == row.score


def test_result_does_not_depend_on_predecessors_in_the_process(
    two_workers: tuple[StudyResult, MemoryTracker],
) -> None:
    result, tracker = two_workers
    rows = [row for domain in ("math", "again") for row in result.domains[domain].rows]
    losses = [
        tracker.store[f"small/{domain}"].trials[row.key].points["train/loss"]
        for domain in ("math", "again")
        for row in result.domains[domain].rows
    ]
    first, other, third, fourth = losses
    assert third == first
    assert fourth == other != first
    assert rows[0].score == rows[2].score


def test_two_workers_equal_a_naive_script(
    two_workers: tuple[StudyResult, MemoryTracker],
) -> None:
    """The mask of a data-parallel trial is the full-sort mask of the mean gradient."""
    result, _ = two_workers
    domain = result.domains["math"]
    assert domain.best is not None
    folder = domain.report.html.parents[1] / "trials" / domain.best.key
    assert domain.best.mask_ratio == 0.4
    best = domain.best
    chosen = point(best.mask_ratio, best.accumulation_interval, best.learning_rate)
    config = resolve_paths(two_worker_config(folder.parents[3])).trial("math", chosen)
    trained, naive = _weights(folder / "model"), _naive(config, workers=2)
    before = _weights(Path(config.model.path))
    assert trained.keys() == naive.keys()
    for name, weight in trained.items():
        difference = (weight - naive[name]).abs()
        # Sums in another order may carry single elements over the threshold, or turn the sign of
        # a first Adam step; each moves by no more than the learning rate a step.
        assert (difference > 1e-4).float().mean() < 1e-3, name
        assert difference.max() < config.learning_rate, name
        assert not torch.equal(weight, before[name])


def test_test_items_are_scored_only_after_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of test items that breaks after the start stops no trial: it is opened at the end."""
    broken = tmp_path / "test.jsonl"
    monkeypatch.setattr(
        benchmarks, "check_test_items", lambda config, built: broken.write_text("not JSON\n")
    )
    broken.write_text("{}\n")
    domains = {"math": {"data": data(), "benchmarks": [benchmark(test=str(broken))]}}
    search = {"trials": 2, "sampler": "random"}
    config = parse_config(tree(tmp_path / "runs", domains=domains, search=search))
    with pytest.raises(UserError, match=r"test\.jsonl:1: expected"):
        run(config, tracker=MemoryTracker())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = paths_for(config).optuna_url()
    study = optuna.load_study(study_name="small/math", storage=storage)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    model, _ = load_model(ModelConfig(path=str(folder), dtype="float32"), CPU)
    return dict(model.named_parameters())


def _naive(config: FinetuneConfig, workers: int) -> dict[str, torch.Tensor]:
    """One process, the whole effective batch at once, a full sort for the mask, plain AdamW."""
    from transformers import get_cosine_schedule_with_warmup

    model, tokenizer = load_model(config.model, CPU)
    model.train()
    data = load_training_data(config.data, tokenizer)
    order = DataOrder(len(data), config.seed)
    steps, size = config.steps(workers), config.effective_batch(workers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    warmup = math.ceil(config.warmup_ratio * steps)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps):
        batch = order.batch(step, size)
        total = sum(_token_loss(model, data.tokens[i], data.spans[i][0][0]) for i in batch)
        (total / data.targets(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameter in model.parameters():
            _mask_by_sorting(parameter.grad, config.method.mask_ratio)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def _token_loss(model: torch.nn.Module, tokens: Sequence[int], first: int) -> torch.Tensor:
    ids = torch.tensor([tokens])
    logits = model(input_ids=ids).logits[0, first - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, first:], reduction="sum")


def _mask_by_sorting(gradient: torch.Tensor, mask_ratio: float) -> None:
    kept = gradient.numel() - math.floor(round(mask_ratio * gradient.numel(), 6))
    threshold = gradient.abs().flatten().sort(descending=True).values[kept - 1]
    gradient[gradient.abs() < threshold] = 0.0
