"""The tensors of safetensors files, each read when it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_INDEX: Final = "model.safetensors.index.json"


@final
class TensorFiles(Mapping[str, Tensor]):
    """The tensors by name of a safetensors file, or of all such files of a model folder.

    A tensor is read from its file on each access. `metadata` joins the texts of the files'
    headers.

    Raises:
        ValueError: a file is damaged or of another kind, a folder has none, or two files have the
            same name.
    """

    def __init__(self, path: Path | str) -> None:
        self.metadata: dict[str, str] = {}
        self._files: dict[str, Any] = {}  # safe_open has no annotations
        for file in shards(Path(path)):
            opened = _opened(file)
            self.metadata |= opened.metadata() or {}
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if name in self._files:
                    raise ValueError(f"{file}: another file of the folder holds {name!r} too")
                self._files[name] = opened

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def shards(path: Path) -> list[Path]:
    """The safetensors files of a model folder, as its index lists them, or `path` itself."""
    if not path.is_dir():
        return [path]
    index = path / _INDEX
    if index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return [path / name for name in sorted(set(listed.values()))]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{index}: expected JSON with a weight_map") from None
    found = sorted(path.glob("*.safetensors"))
    if not found:
        raise ValueError(f"{path}: expected a folder with .safetensors files, found none")
    return found


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file}: expected a whole safetensors file ({error})") from None


def join_files(folder: Path, path: Path, metadata: dict[str, str]) -> None:
    """One safetensors file of all in `folder`, which are only mapped, not read into memory."""
    tensors = {name: t for file in folder.iterdir() for name, t in TensorFiles(file).items()}
    joined, plain = folder / "joined", folder / "plain"
    save_file(tensors, joined, metadata)
    plain.touch()
    shutil.copymode(plain, joined)  # safetensors lets only the owner read its files
    joined.replace(path)
