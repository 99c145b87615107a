"""Estimate the least memory a worker needs and compare it with what it has, before training."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import psutil

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.model_facts import BYTES, ModelError, read_model_config, weights_dtype

_GIB = 2**30
CONTAINER = Path("/sys/fs/cgroup")
"""The limits of this process's container, if it has any (cgroup v2)."""


@final
@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one worker during training. `activations` are those of one micro-batch."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {size / _GIB:.2f}" for name, size in vars(self).items())
        return f"{self.total / _GIB:.2f} GiB ({parts})"


def memory_need(
    config: FinetuneConfig,
    facts: dict[str, Any],
    parameters: int,
    workers: int,
    itemsize: int,
    adapter: int = 0,
) -> MemoryNeed:
    """A low estimate for a model with this many `parameters` and the config.json `facts`.

    `itemsize`: bytes per weight. `adapter`: the parameters of LoRA, which alone have gradients and
    moments. Activations follow Korthikanti et al. 2022 (arXiv 2205.05198): 34
    bytes per token, layer and hidden unit in 16 bits, without the attention matrix; 2 bytes with
    recomputation.
    """
    shards = workers if config.parallel == "fsdp" else 1
    trained = adapter if config.method.lora is not None else parameters
    weights, gradients = (n * itemsize // shards for n in (parameters + adapter, trained))
    moments = {"adamw": 2 * gradients, "adamw_8bit": 2 * trained // shards, "adafactor": 0}
    text = facts.get("text_config") or facts
    tokens = config.forward_batch(workers) * config.data.max_length
    unit = 2 if config.model.gradient_checkpointing else 34
    per_token = unit * text.get("num_hidden_layers", 0) * text.get("hidden_size", 0)
    computed = 1 if config.model.dtype == "mixed_bfloat16" else itemsize // 2
    activations = tokens * per_token * computed
    return MemoryNeed(weights, gradients, moments[config.optimizer], activations)


def check_memory(
    config: FinetuneConfig, workers: int, device: str, parameters: int | None = None
) -> None:
    """Raise ModelError if a worker needs more memory than `device` ("cpu" or "cuda") has.

    `parameters` None: counted from the file headers of a local model. A hub model that is not
    downloaded yet cannot be counted and passes.
    """
    folder = Path(config.model.path).expanduser()
    parameters = parameters or stored_parameters(folder)
    if parameters is None:
        return
    facts = read_model_config(config.model)
    itemsize = BYTES[weights_dtype(config.model.dtype, device)]
    adapter = adapter_parameters(folder, config.method)
    need = memory_need(config, facts, parameters, workers, itemsize, adapter)
    there = _available(device)
    if need.total > there:
        raise ModelError(
            f"model.path {config.model.path}: {parameters:,} parameters need at least {need} on "
            f"each of {workers} workers, and {device} has {there / _GIB:.2f} GiB; expected more "
            f"workers with parallel: fsdp, a smaller mini-batch or max_length, "
            f"model.gradient_checkpointing, or another optimizer or dtype"
        )


def stored_parameters(folder: Path) -> int | None:
    """The number of elements in the safetensors files of `folder`, from headers; None without
    files."""
    return sum(map(math.prod, _shapes(folder).values())) or None


def adapter_parameters(folder: Path, method: MethodConfig) -> int:
    """The parameters that LoRA adds to the stored model; 0 for another method, or without files.

    By default, every matrix within the blocks has an adapter: their names contain a number.
    """
    if method.lora is None:
        return 0
    targets = method.lora.targets or ("",)
    wanted = tuple(f"{target}.weight" for target in targets)
    matrices = [
        shape
        for name, shape in _shapes(folder).items()
        if len(shape) == 2 and name.endswith(wanted) and re.search(r"\.\d+\.", name)
    ]
    return method.lora.rank * sum(map(sum, matrices))


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor in the safetensors files of `folder`, from their headers."""
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        shapes |= {name: each["shape"] for name, each in header.items() if name != "__metadata__"}
    return shapes


def _available(device: str) -> int:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    return machine_memory()


def machine_memory() -> int:
    """Bytes of memory of this machine, or of its container if that is less."""
    return min(int(psutil.virtual_memory().total), _bytes(CONTAINER / "memory.max", 2**63))


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
