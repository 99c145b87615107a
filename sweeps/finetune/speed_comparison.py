"""Measure the cost of an update for each method, one trainer after another."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sweeps.finetune.base_model import base_model
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import preserve_global_state
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer

WARM_UP = 2
"""Rounds that are not counted, because the first updates allocate memory."""


def measure(
    runs: Mapping[str, FinetuneConfig], rounds: int
) -> tuple[dict[str, dict[str, Any]], str]:
    """`measure_updates` of `runs` by method, and the hardware used."""
    cuda = torch.cuda.is_available()
    place = torch.cuda.get_device_name() if cuda else f"a CPU ({platform.machine()})"
    return measure_updates(runs, rounds), place


def measure_updates(
    configs: Mapping[str, FinetuneConfig], rounds: int
) -> dict[str, dict[str, Any]]:
    """Seconds of each of `rounds` updates by name, the FLOPs of one, and its examples.

    All workers of a trial take part; call it on each. One trainer is in memory at a time, and
    each has two turns, the second ones in reverse order, so that other load on the machine affects
    all methods alike. Every method makes its updates on the same examples.
    """
    group = Group.current()
    device = group.device()
    results: dict[str, dict[str, Any]] = {}
    with preserve_global_state(device, next(iter(configs.values())).threads):
        for turn, updates in enumerate((rounds - rounds // 2, rounds // 2)):
            first = WARM_UP + 1 + turn * (rounds - rounds // 2)
            for name in list(configs)[:: 1 - 2 * turn]:
                trainer = _trainer(configs[name], group, device)
                if not turn:
                    examples = configs[name].effective_batch(group.size)
                    flops = _flops(trainer, group, device)
                    results[name] = {"seconds": [], "flops": flops, "examples": examples}
                for update in range(1, WARM_UP + 1):
                    trainer.update(update)
                results[name]["seconds"] += [
                    _seconds(trainer, update, device) for update in range(first, first + updates)
                ]
                del trainer
    return results


def _trainer(config: FinetuneConfig, group: Group, device: torch.device) -> Trainer:
    base = base_model(config, device, group)
    data = load_training_data(config.data, base.tokenizer, add_bos=config.model.add_bos)
    return Trainer(config, base.model, data, group, device, base.fill)


def _flops(trainer: Trainer, group: Group, device: torch.device) -> int:
    """Of an update, over all workers."""
    with FlopCounterMode(display=False) as counter:
        trainer.update(0)
    mine = torch.tensor(counter.get_total_flops(), dtype=torch.int64, device=device)
    return int(group.sum_(mine).item())


def _seconds(trainer: Trainer, update: int, device: torch.device) -> float:
    """The wall time of one update, including all work of the device."""
    _wait(device)
    started = time.perf_counter()
    trainer.update(update)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
