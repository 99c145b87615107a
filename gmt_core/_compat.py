"""Names of torch that it does not promise to keep, each with what its public API lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer


def add_each(tensors: tuple[Tensor, ...], values: Sequence[int]) -> None:
    """Add one number to each tensor, in place.

    Public is only a loop, whose calls cost more than the sums where there are many small tensors.
    """
    torch._foreach_add_(tensors, values)


def subtract_each(tensors: tuple[Tensor, ...], values: Sequence[int]) -> None:
    """Subtract one number from each tensor, in place; see `add_each`."""
    torch._foreach_sub_(tensors, values)


def is_flattened(tensor: Tensor) -> bool:
    """Whether FSDP1 made it: a flat parameter, or a view into one.

    `use_orig_params=True` leaves plain parameters, which nothing public tells apart.
    """
    return type(tensor).__name__ == "FlatParameter" or bool(
        getattr(tensor, "_fsdp_flattened", False)
    )


def cut_dimension(placement: object) -> int | None:
    """The dimension that a DTensor's placement cuts; None where it copies.

    `is_shard` denies that FSDP over tensor parallelism, `_StridedShard`, is a shard.
    Raises ValueError for a placement of another kind.
    """
    kind = type(placement).__name__
    if kind == "Replicate":
        return None
    if kind in ("Shard", "_StridedShard"):
        return int(placement.dim)  # type: ignore[attr-defined]
    raise ValueError(f"expected sharded or replicated placements, found {placement}")


def split_factor(placement: object) -> int | None:
    """Of a strided shard, into how many parts later mesh dimensions cut; None for others.

    Nothing public says which part of the whole a strided shard is.
    """
    factor: int | None = getattr(placement, "split_factor", None)
    return factor


def skipped_by_scaler(optimizer: Optimizer) -> bool:
    """Whether this step will change nothing, because `torch.amp.GradScaler` found an infinity.

    Only of fused optimizers: the scaler calls their `step` all the same, with its verdict as an
    attribute. It does not even call that of others.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def loss_scale(optimizer: Optimizer) -> float:
    """By how much the gradients of this step are scaled; only of fused optimizers, as above."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def version_of(tensor: Tensor) -> int:
    """How often it was changed in place; nothing public tells a changed tensor."""
    return tensor._version
