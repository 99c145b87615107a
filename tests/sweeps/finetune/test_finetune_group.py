"""Several processes compute what one computes: with a copy of the model each, and with shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from sweeps.finetune.checkpoint import saved
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.validation import Validation, evaluate_model
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import (
    Killed,
    MemoryReporter,
    assert_equal,
    config,
    largest_difference,
    parameters,
)

BATCH = {"fixed": "global_batch", "global_batch": 8}


def settings(world: Path, parallel: str, **changes: Any) -> dict[str, Any]:
    # In float32 the rounding of another order of summation can flip an element of the mask.
    model = {"path": str(world / "model"), "dtype": "float64"}
    return {"batch": BATCH, "model": model, "parallel": parallel, **changes}


def train(world: Path, folder: Path, parallel: str, name: str, changes: dict[str, Any]) -> None:
    """On one rank: a run, its losses and score in `name`.json."""
    reporter = MemoryReporter()
    run = config(world, **settings(world, parallel, **changes))
    result = finetune(run, folder / name, reporter)
    report = {"losses": reporter.losses(), "score": result.score}
    (folder / f"{name}.{dist.get_rank()}.json").write_text(json.dumps(report))


@pytest.fixture(scope="module")
def single(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    folder = tmp_path_factory.mktemp("single")
    reporter = MemoryReporter()
    finetune(config(world, **settings(world, "ddp")), folder, reporter)
    return reporter.losses(), folder / "model"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_curve_does_not_depend_on_the_workers(
    world: Path,
    tmp_path: Path,
    single: tuple[list[float], Path],
    parallel: str,
    size: int,
    packing: bool,
) -> None:
    data = {"path": str(world / "train.jsonl"), "max_length": 32, "packing": packing}
    reduce = "micro_batch" if packing else "update"
    changes = {"data": data, "chunked_loss": packing, "reduce_gradients": reduce}
    run_ranks(train, size, tmp_path, world, tmp_path, parallel, "run", changes)
    reports = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("run.*.json"))]
    assert len(reports) == size
    assert all(report == reports[0] for report in reports)
    losses, model = single
    assert reports[0]["losses"] == pytest.approx(losses, abs=1e-9)
    trained = parameters(tmp_path / "run" / "model")
    assert largest_difference(trained, parameters(model)) < 1e-6


def train_mixed(world: Path, folder: Path, parallel: str) -> None:
    """On one rank: a run with float32 weights and bfloat16 products; its score in a file."""
    model = {"path": str(world / "model"), "dtype": "mixed_bfloat16"}
    run = config(world, **settings(world, parallel, model=model))
    result = finetune(run, folder / "run", MemoryReporter())
    (folder / f"score.{dist.get_rank()}").write_text(str(result.score))


@pytest.mark.parametrize(("parallel", "off"), [("ddp", 1e-6), ("fsdp", 5e-4)])
def test_one_precision_in_training_validation_and_test(
    world: Path, tmp_path: Path, parallel: str, off: float
) -> None:
    run_ranks(train_mixed, 2, tmp_path, world, tmp_path, parallel)
    score = float((tmp_path / "score.0").read_text())
    kept = ModelConfig(path=str(tmp_path / "run" / "model"), dtype="mixed_bfloat16")
    model, tokenizer = load_model(kept, torch.device("cpu"))
    mixed, full = (
        evaluate_model(
            model, tokenizer, config(world).evaluation.benchmarks, "validation", computes_in=dtype
        )["exact_match"].score
        for dtype in (torch.bfloat16, None)
    )
    assert score == pytest.approx(mixed, rel=off)
    assert score != pytest.approx(full, rel=1e-6)


def kill_and_resume(world: Path, folder: Path, parallel: str, background: bool) -> None:
    """On one rank: an unbroken run, one that dies and goes on, and one that is stopped."""
    often = {"checkpoint_updates": 1, "keep_checkpoints": 2, "checkpoint_async": background}
    run = config(world, **settings(world, parallel, **often))
    finetune(run, folder / "whole", MemoryReporter())
    with pytest.raises(Killed):
        finetune(run, folder / "killed", MemoryReporter(die_at_step=4))
    dist.barrier()
    kept = [place.name for place in saved(folder / "killed")]
    assert kept == ["step-0000000002", "step-0000000003"]
    reporter = MemoryReporter()
    finetune(run, folder / "killed", reporter)
    assert sorted(reporter.steps) == [4, 5, 6]
    assert finetune(run, folder / "stop", MemoryReporter(stop_at=2)).state == "stopped"


@pytest.mark.parametrize(
    ("parallel", "background"), [("ddp", False), ("fsdp", False), ("fsdp", True)]
)
def test_a_killed_group_goes_on_bit_for_bit(
    world: Path, tmp_path: Path, parallel: str, background: bool
) -> None:
    run_ranks(kill_and_resume, 2, tmp_path, world, tmp_path, parallel, background)
    whole, killed = (parameters(tmp_path / name / "model") for name in ("whole", "killed"))
    assert_equal(whole, killed)


def score_sharded(world: Path, folder: Path, has_room: bool) -> None:
    """On one rank: a run whose checks are made twice, and the gathers of the second times."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param_group as fsdp

    gathers, counts = 0, list[int]()
    gather, check = fsdp.foreach_all_gather, Validation.check

    def counted(*given: Any) -> Any:
        nonlocal gathers
        gathers += 1
        return gather(*given)

    def watched(self: Validation, *given: Any, **named: Any) -> Any:
        check(self, *given, **named)
        before = gathers
        found = check(self, *given, **named)
        counts.append(gathers - before)
        return found

    reporter = MemoryReporter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsdp, "foreach_all_gather", counted)
        patch.setattr(Validation, "check", watched)
        free = 2**40 if has_room else 100  # bytes
        patch.setattr("sweeps.finetune.parallel.free_on", lambda device: free)
        run = config(world, **settings(world, "fsdp"))
        finetune(run, folder / str(has_room), reporter)
    scores = [check.score for check in reporter.checks]
    told = json.dumps([counts, reporter.losses(), scores])
    (folder / f"{has_room}.{dist.get_rank()}.json").write_text(told)


def test_shards_are_gathered_once_for_a_check_where_they_fit(world: Path, tmp_path: Path) -> None:
    for has_room in (True, False):
        group = tmp_path / f"group{has_room}"
        run_ranks(score_sharded, 2, group, world, tmp_path, has_room)
    (once, *same), (often, *others) = (
        json.loads((tmp_path / f"{has_room}.0.json").read_text()) for has_room in (True, False)
    )
    assert same == others  # losses and scores, bit for bit
    assert max(once) == 0 and min(often) > 0
