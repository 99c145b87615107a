"""What a run costs beside time: the share of the weights that it trains, and its peak memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.method import Method

TRAINED_SHARE: Final = "cost/trained_share"
PEAK_MEMORY: Final = "cost/peak_memory_gib"
_PROCESS = Path("/proc/self")


def trained_share(model: torch.nn.Module, method: Method, mask_ratio: float) -> float:
    """The share of the model's weights that one update trains: neither frozen nor masked."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(method, HalfFineTuning):
        trained -= method.frozen(list(sizes))
    return (1.0 - mask_ratio) * sum(sizes[name] for name in trained) / sum(sizes.values())


def restart_peak_memory(device: torch.device) -> None:
    """Measure the peak from here on, if the system allows it; else of the whole process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            (_PROCESS / "clear_refs").write_text("5")


def peak_memory(device: torch.device) -> dict[str, float]:
    """The peak in GiB: allocated on an accelerator, else resident; empty where it is unknown."""
    if device.type == "cuda":
        return {PEAK_MEMORY: torch.cuda.max_memory_allocated(device) / 2**30}
    with suppress(OSError):
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return {PEAK_MEMORY: int(line.split()[1]) / 2**20}
    return {}
