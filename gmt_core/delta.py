"""One-off Drop: after fine-tuning, take back a share of what it changed.

The paper's Figure 3 (arXiv 2406.15330). The delta of a tensor is tuned - base; `drop_ratio` of
its elements go back to their base value, tensor by tensor. `trivial` drops the smallest |delta|,
`salient` the largest, `random` any; ties of the last one kept are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import torch
from torch import Tensor

from gmt_core.checks import checked_ratio, checked_seed
from gmt_core.errors import NonFiniteGradientError
from gmt_core.naming import nearest, one_of
from gmt_core.permutation import Permutation
from gmt_core.threshold import kept_count, magnitude_threshold

Strategy = Literal["trivial", "random", "salient"]
STRATEGIES: Final = ("trivial", "random", "salient")


def one_off_drop(
    base: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    drop_ratio: float,
    strategy: Strategy = "trivial",
    *,
    seed: int = 0,
    rescale: bool = False,
) -> Iterator[tuple[str, Tensor]]:
    """Reset a share of what fine-tuning changed (arXiv 2406.15330, Figure 3), tensor by tensor.

    Yields name and new tensor for every entry of `tuned`, one at a time; `dict(...)` collects
    them. Neither mapping is changed. Kept elements are the tuned values bit for bit, dropped ones
    the base values, in tuned's dtype and device. Tensors that are not floating-point are passed
    on. Beyond the results it takes the memory of a few copies of the largest tensor, in float32.

    Args:
        base: the state dict before training.
        tuned: the state dict after training, with the same names and shapes.
        drop_ratio: the share of elements that are reset, in [0, 1).
        strategy: "trivial" drops the smallest |tuned - base|, "salient" the largest, "random" any.
        seed: of "random".
        rescale: divide kept changes by 1 - drop_ratio, as DARE does (arXiv 2311.03099).

    Raises:
        ValueError: at once for mappings that do not fit, a ratio outside [0, 1) or an unknown
            strategy; while iterating for a change that is NaN or infinite.
    """
    one_of("strategy", strategy, STRATEGIES)
    checked_ratio("drop_ratio", drop_ratio)
    checked_seed(seed)
    check_pair(base, tuned)

    def results() -> Iterator[tuple[str, Tensor]]:
        for name, after in tuned.items():
            if not after.is_floating_point() or after.numel() == 0:
                yield name, after
                continue
            before = base[name].to(after.device)
            kept = kept_count(after.numel(), drop_ratio)
            keeps = _keeps(name, before, after, kept, strategy, seed)
            yield name, _mixed(before, after, keeps, 1.0 - drop_ratio if rescale else None)

    return results()


def check_pair(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    """Raise ValueError where the names or shapes of two state dicts differ.

    So too where a value is no dense tensor in memory: an offloaded weight, an extra state.
    """
    for ours, theirs, which in ((tuned, base, "base"), (base, tuned, "tuned")):
        for name in ours:
            if name not in theirs:
                raise ValueError(f"{which}: no tensor {name!r}{nearest(name, list(theirs))}")
    for name, after in tuned.items():
        for found in (base[name], after):
            if not isinstance(found, Tensor) or found.is_meta or found.layout != torch.strided:
                raise ValueError(f"{name}: expected a dense tensor in memory, found {found!r:.30}")
        if after.shape != base[name].shape:
            raise ValueError(
                f"{name}: expected one shape in base and tuned, found {tuple(base[name].shape)} "
                f"and {tuple(after.shape)}"
            )


@torch.no_grad()
def _keeps(
    name: str, before: Tensor, after: Tensor, kept: int, strategy: Strategy, seed: int
) -> Tensor:
    """Which elements keep their tuned value: bool, their shape."""
    if kept == after.numel():
        return torch.ones_like(after, dtype=torch.bool)
    if strategy == "random":
        places = Permutation.of(after.numel(), seed, name)(0, after.numel(), after.device)
        return (places < kept).view(after.shape)
    magnitudes = _delta(before, after).abs_()
    rank = kept if strategy == "trivial" else after.numel() - kept + 1
    try:
        threshold = magnitude_threshold(magnitudes, rank)
    except NonFiniteGradientError:
        raise ValueError(f"{name}: its delta holds NaN or infinity") from None
    return magnitudes >= threshold if strategy == "trivial" else magnitudes <= threshold


@torch.no_grad()
def _mixed(before: Tensor, after: Tensor, keeps: Tensor, share: float | None) -> Tensor:
    if share is None or share == 1.0:
        return torch.where(keeps, after, before.to(after.dtype))
    wide = _wide(before, after)
    scaled = before.to(wide) + _delta(before, after) / share
    return torch.where(keeps, scaled, before.to(wide)).to(after.dtype)


def _delta(before: Tensor, after: Tensor) -> Tensor:
    """tuned - base, at least in float32."""
    wide = _wide(before, after)
    return after.to(wide) - before.to(wide)


def _wide(before: Tensor, after: Tensor) -> torch.dtype:
    dtypes = (before.dtype, after.dtype)
    return torch.float64 if torch.float64 in dtypes else torch.float32
