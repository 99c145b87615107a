"""Processes that are really killed with signal 9, and what the last one ends with."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps.finetune.background_save import _copied
from sweeps.finetune.checkpoint import saved
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.reporter import Check
from tests.sweeps.finetune.tiny import MemoryReporter, assert_equal, config, parameters

KILLS = 3
STEPS = 12


class KillingReporter:
    """Ends the process at a step, as the kernel or a preemption would."""

    def __init__(self, at_step: int) -> None:
        self._at_step = at_step

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self._at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def check(self, check: Check) -> bool:
        return True


def work(settings: FinetuneConfig, folder: Path, at_step: int) -> None:
    finetune(settings, folder, KillingReporter(at_step))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by its path within the folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


RANDOM = {"name": "random", "mask_ratio": 0.4}
LORA = {"name": "lora", "lora": {"rank": 4, "dropout": 0.3}}


@pytest.mark.parametrize(
    ("method", "background"), [(RANDOM, False), (RANDOM, True), (LORA, False)]
)
def test_killed_three_times_is_bit_equal(
    world: Path, tmp_path: Path, method: dict[str, Any], background: bool
) -> None:
    settings = config(
        world,
        examples=8 * STEPS,
        checkpoint_updates=2,
        checkpoint_async=background,
        keep_checkpoints=2,
        method=method,
    )
    whole = finetune(settings, tmp_path / "whole", MemoryReporter())
    folder = tmp_path / "killed"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    kills = sorted(random.Random(5).sample(range(1, STEPS + 1), KILLS))
    for at_step in kills:
        process = context.Process(target=work, args=(settings, folder, at_step))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        places = saved(folder)
        assert len(places) <= 2
        if places:  # what a kill in the midst of saving leaves behind
            (places[-1].parent / "step-9999999999.partial").mkdir(exist_ok=True)
    reporter = MemoryReporter()
    resumed = finetune(settings, folder, reporter)
    assert min(reporter.steps) > 1, "the last process began anew"
    assert_equal(parameters(resumed.model_folder), parameters(whole.model_folder))
    ours = contents(folder / "model")
    assert ours == contents(tmp_path / "whole" / "model")
    assert ("adapter/adapter_model.safetensors" in ours) == (method is LORA)
    assert resumed.score == whole.score
    assert not (folder / "checkpoint").exists()


def test_what_fails_in_the_background_is_raised(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("sweeps.finetune.checkpoint._write", full)
    settings = config(world, checkpoint_updates=1, checkpoint_async=True)
    with pytest.raises(OSError, match="no space left"):
        finetune(settings, tmp_path / "run", MemoryReporter())
    assert saved(tmp_path / "run") == []


def test_a_copy_is_what_the_state_was() -> None:
    tensor = torch.arange(3.0)
    state = {"a": [tensor, (tensor[1:], 2)], "b": None}
    copy = _copied(state)
    tensor.zero_()
    assert copy["a"][0].tolist() == [0.0, 1.0, 2.0]
    assert copy["a"][1][0].tolist() == [1.0, 2.0]
    assert (copy["a"][1][1], copy["b"]) == (2, None)
