"""What fine-tuning changed, as a small file: the places of changed elements and their new values.

New values and not differences are stored, so that base plus delta is the tuned model bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from gmt_core.delta import check_pair
from gmt_core.naming import nearest

_FORMAT: Final = "gmt_core sparse delta 1"
_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_INT32: Final = 1 << 31


@final
@dataclass(frozen=True)
class Change:
    """The changed elements of one tensor.

    `places` are row-major indices (int32, or int64 for large tensors), ascending; `values` the
    new ones; `shape` the whole tensor's. `check` is a sum over the base values at the places.
    """

    places: Tensor
    values: Tensor
    shape: tuple[int, ...]
    check: int


SparseDelta = dict[str, Change]


def sparse_delta(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> SparseDelta:
    """The elements of `tuned` whose bits differ from `base`, on the CPU.

    Raises ValueError where names, shapes or dtypes of the two state dicts differ.
    """
    check_pair(base, tuned)
    found = {}
    for name, after in tuned.items():
        before = base[name].to(after.device)
        if before.dtype != after.dtype:
            raise ValueError(
                f"{name}: expected one dtype in base and tuned, found {before.dtype} and "
                f"{after.dtype}"
            )
        places = (_bits(before) != _bits(after)).nonzero().squeeze(1)
        if places.numel():
            index = places.to(torch.int32 if after.numel() < _INT32 else torch.int64)
            values = after.detach().reshape(-1)[places].cpu()
            found[name] = Change(
                index.cpu(), values, tuple(after.shape), _check(before, places.cpu())
            )
    return found


def apply_delta(base: Mapping[str, Tensor], delta: SparseDelta) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor for every entry of `base`, changed ones as copies.

    Raises ValueError where the delta was not made from this base.
    """
    for name, change in delta.items():
        if name not in base:
            raise ValueError(f"base: no tensor {name!r}{nearest(name, list(base))}")
        _fits(name, base[name], change)
    for name, before in base.items():
        if name not in delta:
            yield name, before
            continue
        change = delta[name]
        after = before.detach().clone(memory_format=torch.contiguous_format)
        places = change.places.to(before.device, torch.int64)
        after.view(-1)[places] = change.values.to(before.device)
        yield name, after


def save_delta(delta: SparseDelta, path: Path | str) -> None:
    """Write it with torch.save, as plain tensors and numbers."""
    torch.save({"format": _FORMAT, "changes": {n: vars(c) for n, c in delta.items()}}, path)


def load_delta(path: Path | str) -> SparseDelta:
    """Read it without running any code; ValueError where the file is another kind of thing."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != _FORMAT:
        raise ValueError(f"{path}: expected a file of format {_FORMAT!r}, found {found!r}")
    return {name: Change(**change) for name, change in state["changes"].items()}


def _fits(name: str, before: Tensor, change: Change) -> None:
    found, expected = (before.dtype, tuple(before.shape)), (change.values.dtype, change.shape)
    if found != expected:
        raise ValueError(f"{name}: expected a base of {expected}, found {found}")
    if _check(before, change.places.long()) != change.check:
        raise ValueError(f"{name}: the delta was made from a base with other values")


def _bits(x: Tensor) -> Tensor:
    """All elements, row-major, as integers that are equal where the bits are."""
    return x.detach().reshape(-1).view(_BITS[x.dtype.itemsize])


def _check(before: Tensor, places: Tensor) -> int:
    """A sum of the base's bits, each weighted by its place, modulo 2**64."""
    bits = _bits(before)[places.to(before.device)].cpu().to(torch.int64)
    return int((bits * (places % 65521 + 1)).sum())
