"""Measure the cost of an update for each method, with trainers that take turns."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sweeps.finetune.data import load_training_data
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import preserve_global_state
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

    All in one process. In each round every method makes one update on the same examples, in a
    different order each time, so that other load on the machine affects all methods equally.
    """
    group = Group(0, 1)
    device = group.device()
    results: dict[str, dict[str, Any]] = {}
    names = list(configs)
    with preserve_global_state(device, next(iter(configs.values())).threads):
        trainers = {name: _trainer(config, group, device) for name, config in configs.items()}
        for name, trainer in trainers.items():
            with FlopCounterMode(display=False) as counter:
                trainer.update(0)
            examples = configs[name].effective_batch(1)
            flops = counter.get_total_flops()
            results[name] = {"seconds": [], "flops": flops, "examples": examples}
        for update in range(1, WARM_UP + rounds + 1):
            for place in range(len(names)):
                name = names[(place + update) % len(names)]
                seconds = _seconds(trainers[name], update, device)
                if update > WARM_UP:
                    results[name]["seconds"].append(seconds)
    return results


def _trainer(config: FinetuneConfig, group: Group, device: torch.device) -> Trainer:
    model, tokenizer = load_model(config.model, device)
    data = load_training_data(config.data, tokenizer, add_bos=config.model.add_bos)
    return Trainer(config, model.to(device), data, group, device)


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
