"""What fine-tuning changed, as a safetensors file that is smaller than the tuned tensors.

Needs safetensors: `pip install 'gmt-core[delta]'`. New bits and not differences are stored, so
that base plus delta is the tuned model bit for bit.

from gmt_core.sparse_delta import TensorFiles, apply_delta, load_delta, save_delta
save_delta(TensorFiles("base"), TensorFiles("tuned"), "tuned.delta.safetensors")
tuned = apply_delta(TensorFiles("base"), load_delta("tuned.delta.safetensors"))

Small updates leave the high bytes of most elements alone, so each byte of the elements is a plane
of its own, in the smallest of three forms: the new bytes with their indices, the new bytes with
one bit per element that says which changed, or all bytes. A tensor's planes follow each other,
the lowest byte first, under the tensor's name; the metadata say what they are.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, final

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from gmt_core.delta import check_pair
from gmt_core.naming import nearest
from gmt_core.tensor_files import TensorFiles, join_files, shards

# With what its caller needs beside it, so that a script takes one import more, and not two.
__all__ = ["Delta", "TensorFiles", "apply_delta", "load_delta", "save_delta", "write_tuned"]

_FORMAT: Final = "gmt_core delta 3"
_FORMS: Final = ("indices", "bitmap", "dense")
_CHUNK: Final = 1 << 22  # a selection takes 8 bytes for each element that it looks at
_WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")


@final
@dataclass(frozen=True)
class Plane:
    """One byte of every element: in how many it changed, and in which form they are stored."""

    form: str
    changed: int

    def sizes(self, elements: int) -> tuple[int, int]:
        """Bytes that say where, and the new bytes."""
        if self.form == "dense":
            return 0, elements
        if self.form == "bitmap":
            return -(-elements // 8), self.changed
        return self.changed * _index(elements).itemsize, self.changed


@final
@dataclass(frozen=True)
class Entry:
    """One tensor of the base, and how its change is stored.

    `sha256` is the beginning of the hash of the base's values, `stored` that of the stored bytes.
    `source` is the name under which the change is stored: the tensor's own, or that of another
    with the same values (tied weights).
    """

    dtype: str
    shape: list[int]
    sha256: str
    planes: list[Plane]
    source: str
    stored: str

    def stored_bytes(self) -> int:
        """The bytes under `source`; 0 where nothing changed."""
        return sum(sum(plane.sizes(math.prod(self.shape))) for plane in self.planes)


@final
@dataclass(frozen=True)
class Delta:
    """An open delta file: an entry for each tensor of its base, and the bytes of changed ones."""

    path: Path
    entries: dict[str, Entry]
    stored: TensorFiles


def save_delta(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], path: Path | str) -> None:
    """Write what turns `base` into `tuned`, one tensor at a time; all of the file or nothing.

    Args:
        base: the model before training: a state dict, or `TensorFiles` of its folder.
        tuned: the model after training, with the same names, shapes and dtypes.
        path: the safetensors file to write.

    Raises:
        ValueError: names, shapes or dtypes differ.
    """
    check_pair(base, tuned)
    path = Path(path)
    entries: dict[str, Entry] = {}
    first: dict[tuple[object, ...], str] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, after in tuned.items():
            dtype, shape, sha256 = _origin(base[name])
            if str(after.dtype) != dtype:
                raise ValueError(
                    f"{name}: expected one dtype in base and tuned, found {dtype} and "
                    f"{after.dtype}"
                )
            source = first.setdefault((dtype, *shape, sha256), name)
            if source != name and not torch.equal(_bytes(tuned[source]), _bytes(after)):
                source = name
            planes, stored = _encoded(base[name].to(after.device), after)
            entries[name] = Entry(dtype, shape, sha256, planes, source, _sha256(stored))
            if source == name and stored.numel():
                save_file({name: stored.cpu()}, Path(folder, f"{len(entries)}"))
        texts = json.dumps({name: astuple(entry) for name, entry in entries.items()})
        join_files(Path(folder), path, {"format": _FORMAT, "entries": texts})


def load_delta(path: Path | str) -> Delta:
    """Open a file of `save_delta`. It is read once to check it; tensors are read when needed.

    Raises:
        ValueError: the file is damaged, or of another kind or version.
    """
    path = Path(path)
    stored = TensorFiles(path)
    if (version := stored.metadata.get("format")) != _FORMAT:
        raise ValueError(f"{path}: expected a file of format {_FORMAT!r}, found {version!r}")
    try:
        entries = {
            name: Entry(dtype, shape, sha256, [Plane(*plane) for plane in planes], *rest)
            for name, (dtype, shape, sha256, planes, *rest) in json.loads(
                stored.metadata["entries"]
            ).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: its list of tensors is missing or damaged") from None
    for entry in entries.values():
        found = stored.get(entry.source, torch.empty(0))
        if len(found) != entry.stored_bytes() or _sha256(found) != entry.stored:
            raise ValueError(f"{path}: the tensor {entry.source!r} is missing or damaged")
    return Delta(path, entries, stored)


def apply_delta(base: Mapping[str, Tensor], delta: Delta) -> Mapping[str, Tensor]:
    """The tuned model by name, bit for bit. Each tensor is made on access.

    Unchanged tensors are the base's own. The whole base is read first, to check it.

    Raises:
        ValueError: this is not the base of the delta, in any tensor or element.
    """
    _check_base(base, delta)
    return _Tuned(base, delta)


def write_tuned(base: Path | str, delta: Delta, folder: Path | str) -> None:
    """Write a copy of a model folder with the delta applied, one tensor at a time.

    Shards and other files are those of the base, except weights in other formats.

    Raises:
        ValueError: another base, or a `folder` that exists or lies inside the base's.
    """
    base, folder = Path(base), Path(folder)
    if folder.exists() or base.resolve() in folder.resolve().parents:
        raise ValueError(f"{folder}: expected a folder that does not exist yet, outside of {base}")
    tuned = apply_delta(TensorFiles(base), delta)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        new = Path(place, folder.name)
        shutil.copytree(base, new, ignore=shutil.ignore_patterns(*_WEIGHTS))
        for file in shards(base):
            _write_shard(TensorFiles(file), tuned, new / file.name)
        new.rename(folder)


def _write_shard(shard: TensorFiles, tuned: Mapping[str, Tensor], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for number, name in enumerate(shard):
            save_file({name: tuned[name]}, Path(folder, f"{number}"))
        join_files(Path(folder), path, shard.metadata)


@final
class _Tuned(Mapping[str, Tensor]):
    def __init__(self, base: Mapping[str, Tensor], delta: Delta) -> None:
        self._base, self._delta = base, delta

    def __getitem__(self, name: str) -> Tensor:
        before, entry = self._base[name], self._delta.entries[name]
        if not entry.stored_bytes():
            return before
        return _decoded(before, entry.planes, self._delta.stored[entry.source].to(before.device))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def _encoded(before: Tensor, after: Tensor) -> tuple[list[Plane], Tensor]:
    """The planes of a tensor, and their bytes: uint8, one dimension."""
    planes, parts = [], []
    for old, new in zip(_bytes(before).unbind(1), _bytes(after).unbind(1), strict=True):
        changed = old != new
        count, elements = int(changed.count_nonzero()), new.numel()
        choices = [Plane(form, count) for form in _FORMS]
        plane = min(choices, key=lambda each: sum(each.sizes(elements)))
        planes.append(plane)
        if plane.form == "bitmap":
            parts.append(_packed(changed))
        elif plane.form == "indices":
            parts.append(changed.nonzero().squeeze(1).to(_index(elements)).view(torch.uint8))
        parts.append(new if plane.form == "dense" else _selected(new, changed))
    return planes, torch.cat(parts)


def _decoded(before: Tensor, planes: list[Plane], stored: Tensor) -> Tensor:
    elements = before.numel()
    sizes = [size for plane in planes for size in plane.sizes(elements)]
    parts = iter(stored.split(sizes))
    found = []
    for old, plane, where, new in zip(_bytes(before).unbind(1), planes, parts, parts, strict=True):
        if plane.form == "dense":
            found.append(new)
        elif plane.form == "bitmap":
            found.append(old.masked_scatter(_unpacked(where)[:elements], new))
        else:
            indices = where.clone().view(_index(elements))
            found.append(old.index_copy(0, indices.long(), new))
    return torch.stack(found, 1).view(before.dtype).view(before.shape)


def _selected(new: Tensor, changed: Tensor) -> Tensor:
    pieces = zip(new.split(_CHUNK), changed.split(_CHUNK), strict=True)
    return torch.cat([piece[where] for piece, where in pieces])


def _packed(changed: Tensor) -> Tensor:
    """One bit per element, the lowest of each byte first; the last byte is filled with zeros."""
    rows = pad(changed.to(torch.uint8), (0, -changed.numel() % 8)).view(-1, 8)
    return (rows << _eight(rows)).sum(1, dtype=torch.uint8)


def _unpacked(bitmap: Tensor) -> Tensor:
    return (bitmap[:, None] >> _eight(bitmap) & 1).bool().view(-1)


def _eight(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)


def _bytes(x: Tensor) -> Tensor:
    """The bytes of all elements, row-major: elements x bytes of one, uint8."""
    flat = x.detach().reshape(-1).contiguous()
    return flat.view(torch.uint8).view(flat.numel(), flat.itemsize)


def _index(elements: int) -> torch.dtype:
    return torch.int32 if elements < 1 << 31 else torch.int64


def _origin(before: Tensor) -> tuple[str, list[int], str]:
    """What tells a base from others: dtype, shape, and the beginning of the values' SHA-256."""
    return str(before.dtype), list(before.shape), _sha256(before)


def _sha256(x: Tensor) -> str:
    """The beginning of the hash of its values."""
    return hashlib.sha256(_bytes(x).cpu().numpy().data).hexdigest()[:16]


def _check_base(base: Mapping[str, Tensor], delta: Delta) -> None:
    for ours, theirs, which in ((delta.entries, base, "base"), (base, delta.entries, delta.path)):
        for name in ours:
            if name not in theirs:
                raise ValueError(f"{which}: no tensor {name!r}{nearest(name, list(theirs))}")
    for name, entry in delta.entries.items():
        dtype, shape, sha256 = _origin(base[name])
        if (dtype, shape) != (entry.dtype, entry.shape):
            raise ValueError(
                f"{name}: expected a base of {entry.dtype} {tuple(entry.shape)}, found "
                f"{dtype} {tuple(shape)}"
            )
        if sha256 != entry.sha256:
            raise ValueError(f"{name}: the delta was made from a base with other values")
