"""What a run costs: the speed of its updates (tokens, examples and FLOPs per second, MFU if the
peak is known), the share of the weights that it trains, and its peak memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, final

import torch

from gmt_core.half_fine_tuning import HalfFineTuning
from gmt_core.method import Method

# Dense bf16 tensor-core peaks in TFLOP/s from the vendor's data sheets; the first match counts.
_PEAKS = (
    ("B200", 2250.0),
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10G", 70.0),
    ("A10", 125.0),
)


@final
@dataclass(frozen=True)
class Throughput:
    """What a model computes per token, and the peak of its devices.

    `body` and `head` count the parameters in matrix products (all except the input embedding), a
    frozen one by two thirds, because it needs no gradient; the head processes target tokens only.
    `attention` is layers x query width. `peak` is in FLOP/s over all devices, None if unknown.
    """

    body: float
    head: float
    attention: int
    peak: float | None

    @classmethod
    def of(cls, model: Any, dtype: torch.dtype, device: torch.device, workers: int) -> Self:
        """Count `model` before it is sharded; `dtype` is that of its matrix products."""
        config = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight
        output = model.get_output_embeddings().weight
        body = sum(
            _computed(p) for p in model.parameters() if p is not embedding and p is not output
        )
        heads = getattr(config, "num_attention_heads", 0)
        width = getattr(config, "head_dim", None) or config.hidden_size // max(1, heads)
        layers = getattr(config, "num_hidden_layers", 0)
        peak = _peak(device) if dtype == torch.bfloat16 else None
        return cls(
            body,
            _computed(output),
            layers * heads * width,
            None if peak is None else peak * workers,
        )

    def flops(self, lengths: Sequence[int], targets: int) -> float:
        """FLOPs of an update over examples of these `lengths`, forward and backward.

        6 per parameter and token (Kaplan et al. 2020) and 12 l^2 / 2 per unit of causal attention
        width (Chowdhery et al. 2022, appendix B); recomputation is not counted.
        """
        tokens = sum(lengths)
        squares = sum(length * length for length in lengths)
        return 6.0 * (self.body * tokens + self.head * targets + self.attention * squares)

    def metrics(self, lengths: Sequence[int], targets: int, seconds: float) -> dict[str, float]:
        """`train/...` rates of one update over all workers."""
        rate = self.flops(lengths, targets) / seconds
        metrics = {
            "train/tokens_per_second": sum(lengths) / seconds,
            "train/samples_per_second": len(lengths) / seconds,
            "train/tflops_per_second": rate / 1e12,
        }
        return metrics if self.peak is None else {**metrics, "train/mfu": rate / self.peak}


def _computed(parameter: torch.Tensor) -> float:
    return parameter.numel() * (1.0 if parameter.requires_grad else 2 / 3)


def _peak(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in _PEAKS if part in name), None)


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
