"""Estimate the least memory a worker needs and compare it with what it has, before training."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import psutil

from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.model_facts import (
    BYTES,
    ModelError,
    count_parameters,
    is_mixed,
    read_model_config,
    tensor_shapes,
)

if TYPE_CHECKING:
    import torch

_GIB = 2**30
_FILLED = 0.85
"""How much of a device an estimate with whole gradients may fill: it leaves out logits, buffers of
collectives, and what the allocator cannot use."""
CONTAINER = Path("/sys/fs/cgroup")
"""The limits of this process's container, if it has any (cgroup v2)."""


@final
@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one worker during training. `activations` are those of one micro-batch.

    `host` is what it needs in the memory of its machine, which on a CPU is `total`; `first` what
    rank 0 needs there beside it.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    host: int
    first: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts on the worker's device."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def on_machine(self, workers: int) -> int:
        """Bytes on the machine that holds this many workers, rank 0 among them."""
        return self.host * workers + self.first

    def __str__(self) -> str:
        names = ("weights", "gradients", "optimizer", "activations")
        parts = ", ".join(f"{name} {getattr(self, name) / _GIB:.2f}" for name in names)
        return f"{self.total / _GIB:.2f} GiB ({parts})"


def memory_need(
    config: FinetuneConfig,
    facts: dict[str, Any],
    parameters: int,
    workers: int,
    device: str,
    adapter: int = 0,
) -> MemoryNeed:
    """A low estimate for a model with this many `parameters` and the config.json `facts`.

    `device`: "cpu" or "cuda". `adapter`: the parameters of LoRA, which alone have gradients and
    moments. With `fsdp`, each worker holds the whole gradient until the last micro-batch of an
    update, unless gradients are reduced on every one. Activations follow Korthikanti et al. 2022
    (arXiv 2205.05198): 34 bytes per token, layer and hidden unit in 16 bits, without the attention
    matrix; 2 bytes with recomputation. A background checkpoint is written from a copy on the host.
    """
    itemsize = BYTES[config.model.dtype]
    shards = workers if config.parallel == "fsdp" else 1
    whole = (parameters + adapter) * itemsize
    gradient, moments = trained_bytes(config, parameters, adapter)
    accumulates = config.accumulation_interval * config.micro_splits > 1
    is_whole = accumulates and config.reduce_gradients != "micro_batch"
    text = facts.get("text_config") or facts
    tokens = config.forward_batch(workers) * config.data.max_length
    unit = 2 if config.model.gradient_checkpointing else 34
    per_token = unit * text.get("num_hidden_layers", 0) * text.get("hidden_size", 0)
    computed = 1 if is_mixed(config.model.dtype, device) else itemsize // 2
    parts = (
        whole // shards,
        gradient if is_whole else gradient // shards,
        moments // shards,
        tokens * per_token * computed,
    )
    copied = (gradient // shards + parts[2]) * config.saves_in_background(device)
    if device == "cpu":
        return MemoryNeed(*parts, host=sum(parts))
    if shards > 1:  # rank 0 loads the model for all
        return MemoryNeed(*parts, host=copied, first=whole)
    return MemoryNeed(*parts, host=whole, first=copied)


def trained_bytes(config: FinetuneConfig, parameters: int, adapter: int) -> tuple[int, int]:
    """Bytes of the weights that are trained, and of the optimizer's moments."""
    trained = parameters if config.method.lora is None else adapter
    weights = trained * BYTES[config.model.dtype]
    moments = {"adamw": 2 * weights, "adamw_8bit": 2 * trained, "adafactor": 0}
    return weights, moments[config.optimizer]


def checkpoint_bytes(config: FinetuneConfig) -> int | None:
    """Bytes of one checkpoint; None if the model's parameters cannot be counted (yet)."""
    parameters = count_parameters(config.model)
    if parameters is None:
        return None
    return sum(trained_bytes(config, parameters, adapter_parameters(config.model, config.method)))


def worker_need(
    config: FinetuneConfig, workers: int, device: str, there: int | None = None
) -> MemoryNeed | None:
    """`memory_need` of the run's model; None if its parameters cannot be counted (yet).

    `there`: bytes of the device, by default of that of this machine.
    """
    parameters = count_parameters(config.model)
    if parameters is None:
        return None
    adapter = adapter_parameters(config.model, config.method)
    facts = read_model_config(config.model)
    need = memory_need(config, facts, parameters, workers, device, adapter)
    there = _available(device) if there is None else there
    if config.reduce_gradients == "auto" and need.total > _FILLED * there:
        config = config.model_copy(update={"reduce_gradients": "micro_batch"})
        return memory_need(config, facts, parameters, workers, device, adapter)
    return need


def reduces_each(config: FinetuneConfig, workers: int, device: str) -> bool:
    """Whether sharded gradients are reduced on every micro-batch: by choice, or if it is `auto`
    and whole gradients do not fit `device`."""
    if config.reduce_gradients != "auto":
        return config.reduce_gradients == "micro_batch"
    once = config.model_copy(update={"reduce_gradients": "update"})
    need = worker_need(once, workers, device)
    return need is not None and need.total > _FILLED * _available(device)


def check_memory(
    config: FinetuneConfig, workers: int, device: str, neighbours: int | None = None
) -> None:
    """Raise ModelError if a worker needs more memory than `device` ("cpu" or "cuda") or host has.

    `neighbours`: the workers on this host; by default what the launcher says, else all.
    """
    need = worker_need(config, workers, device)
    if need is None:
        return
    neighbours = neighbours or int(os.environ.get("LOCAL_WORLD_SIZE", workers))
    place, host = f"model.path {config.model.path}", need.on_machine(neighbours)
    if need.total > (there := _available(device)):
        raise ModelError(
            f"{place}: training needs at least {need} on each of {workers} workers, and {device} "
            f"has {there / _GIB:.2f} GiB; expected more workers with parallel: fsdp, a smaller "
            "mini-batch or max_length, model.gradient_checkpointing, or another optimizer or dtype"
        )
    if host > (there := machine_memory()):
        raise ModelError(
            f"{place}: {neighbours} workers on this machine need at least {host / _GIB:.2f} GiB "
            f"of its memory, and it has {there / _GIB:.2f} GiB; expected fewer workers on a "
            "machine, or a smaller model"
        )


def adapter_parameters(model: ModelConfig, method: MethodConfig) -> int:
    """The parameters that LoRA adds to the stored model; 0 for another method, or without files.

    By default, every matrix within the blocks has an adapter: their names contain a number.
    """
    if method.lora is None:
        return 0
    targets = method.lora.targets or ("",)
    wanted = tuple(f"{target}.weight" for target in targets)
    matrices = [
        shape
        for name, shape in tensor_shapes(model).items()
        if len(shape) == 2 and name.endswith(wanted) and re.search(r"\.\d+\.", name)
    ]
    return method.lora.rank * sum(map(sum, matrices))


def _available(device: str) -> int:
    """Bytes of the device; without end for a GPU that only other machines have."""
    if device == "cuda":
        import torch

        is_here = torch.cuda.is_available()
        return torch.cuda.get_device_properties(device).total_memory if is_here else 2**63
    return machine_memory()


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container if that is less."""
    return min(int(psutil.virtual_memory().total), _bytes(CONTAINER / "memory.max", 2**63))


def free_on(device: torch.device) -> int:
    """Bytes that this process may still allocate on its device; on a CPU, its part of the rest."""
    import torch

    if device.type == "cpu":
        return free_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def free_memory() -> int:
    """Bytes that this process may still allocate, on the machine or within its container."""
    return min(int(psutil.virtual_memory().available), container_rest())


def container_rest(group: Path = CONTAINER) -> int:
    """Bytes left under a container's limit; about 2**63 without a limit."""
    limit, used = _bytes(group / "memory.max", 2**63), _bytes(group / "memory.current", 0)
    return max(0, limit - used)


def _bytes(file: Path, default: int) -> int:
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text.isdigit() else default
