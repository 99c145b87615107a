"""From a YAML file and ``key=value`` overrides to a checked ``SweepConfig``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sweeps.config import SweepConfig
from sweeps.errors import UserError, explain
from sweeps.finetune.whole_file import write_whole
from sweeps.folder.drivers import living_drivers
from sweeps.folder.place import RESOLVED, StudyPlace, place_of
from sweeps.folder.stored import refresh
from sweeps.mini.world import name_of
from sweeps.storage.address import Address, folder_of, is_address

_SUFFIXES = (".yaml", ".yml")
_NEITHER = "there is no configuration file, and no sweep's folder"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML, but a key that stands twice is refused instead of the first being dropped."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"line {line}: expected a word as key, found {key!r}")
            if key in seen:
                raise UserError(f"line {line}: the key '{key}' stands twice in one mapping")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read, override and check a sweep's configuration, from a file or from a sweep's folder,
    which may be an address in an object store.

    Raises:
        UserError: the file is missing or no YAML, a key is unknown, a value is out of bounds, an
            override is malformed; the message names the place and what was expected.
    """
    if is_address(str(path)):
        return parse_config(_overridden(_read_address(str(path)), overrides), str(path))
    if not Path(path).is_dir():
        return parse_config(load_tree(path, overrides), str(path))
    return parse_config(_overridden(_read_folder(Path(path)), overrides), str(path))


def load_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file with its overrides as a tree of plain values, whose keys nobody checked yet.

    Raises:
        UserError: the file is missing or no YAML, or an override is malformed.
    """
    return _overridden(_read(Path(path)), overrides)


def _overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        _apply(tree, override)
    return tree


def parse_config(tree: dict[str, Any], source: str = "configuration") -> SweepConfig:
    """Check a configuration that is already a tree of plain values.

    Raises:
        UserError: as ``load_config``.
    """
    try:
        return SweepConfig.model_validate(tree)
    except ValidationError as error:
        raise explain(error, SweepConfig, source) from None


def save_config(config: SweepConfig) -> None:
    """Write a configuration whose paths are resolved into its sweep's folder, whole or not at all.

    The embedded world has its names again, since its files lie elsewhere on the next machine. Only
    its owner may read it: a webhook's address may be in it.
    """
    text = yaml.safe_dump(_named(config.model_dump(mode="json")), sort_keys=False)
    write_whole(place_of(config).config_file(), text, mode=0o600)


def _named(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _named(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_named(value) for value in tree]
    return ",".join(map(name_of, tree.split(","))) if isinstance(tree, str) else tree


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        what = "no such configuration file" if path.suffix in _SUFFIXES else _NEITHER
        raise UserError(f"{path}: {what}{_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: expected a mapping of keys at the top, found {type(tree).__name__}"
        )
    return tree


def _read_folder(folder: Path) -> dict[str, Any]:
    """What a sweep's folder says it is; the folder may have moved, or be mounted elsewhere."""
    folder = folder.resolve()
    if not (folder / RESOLVED).is_file():
        if drivers := living_drivers(folder):
            raise UserError(
                f"{folder}: the sweep is being started, by {drivers[0]}; ask again in some seconds"
            )
        raise UserError(
            f"{folder}: no {RESOLVED} in this folder; expected a YAML file, or the folder of a "
            "sweep that has been run, which is STORAGE/NAME"
        )
    tree = _read(folder / RESOLVED)
    if tree.get("name") != folder.name:
        raise UserError(
            f"{folder}: the sweep in it is named '{tree.get('name')}', and its folder must be too"
        )
    return {**tree, "storage": _storage(str(tree.get("storage")), folder)}


def _read_address(address: str) -> dict[str, Any]:
    """As `_read_folder`, of a sweep in an object store, which is fetched first."""
    try:
        storage, name = Address.parse(address).split()
    except ValueError as error:
        raise UserError(str(error)) from None
    if not name:
        raise UserError(f"{address}: expected the folder of a sweep, which is STORAGE/NAME")
    refresh(StudyPlace(storage.mirror() / name, storage))
    folder = storage.mirror() / name
    if not (folder / RESOLVED).is_file():
        raise UserError(f"{address}: no sweep is there; expected STORAGE/NAME of one that was run")
    return {**_read_folder(folder), "storage": str(storage)}


def _storage(recorded: str, folder: Path) -> str:
    """The storage that a sweep's folder is in: of a mirror, the address of what it mirrors."""
    if is_address(recorded) and folder_of(recorded).resolve() == folder.parent:
        return recorded
    return str(folder.parent)


def _near(path: Path) -> str:
    """The file in the same folder that was probably meant, or what is shipped."""
    with suppress(OSError):
        beside = [file.name for file in path.parent.iterdir() if file.suffix in _SUFFIXES]
        if close := get_close_matches(path.name, beside, n=1, cutoff=0.7):
            return f"; did you mean '{path.with_name(close[0])}'?"
    names = sorted(file.name for file in (Path(__file__).parent.parent / "configs").glob("*.yaml"))
    return f" (shipped with the package, in sweeps/configs: {', '.join(names)})"


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in place; the value is read as YAML. Unknown keys are refused later."""
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UserError(f"override {override!r}: expected key=value, as search.trials=4")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not valid YAML") from None
    *parents, last = key.strip().split(".")
    here: Any = tree
    for parent in parents:
        here = _child(here, parent, override)
    if isinstance(here, list):
        here[_index(here, last, override)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise UserError(f"override {override!r}: '{'.'.join(parents)}' holds a single value")


def _child(here: Any, key: str, override: str) -> Any:
    if isinstance(here, list):
        return here[_index(here, key, override)]
    if not isinstance(here, dict):
        raise UserError(f"override {override!r}: nothing lies below the value before '{key}'")
    if here.get(key) is None:
        here[key] = {}
    return here[key]


def _index(here: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(here):
        raise UserError(f"override {override!r}: '{key}' is no index into a list of {len(here)}")
    return int(key)
