"""From a YAML file and ``key=value`` overrides to a checked ``SweepConfig``.

Where a paper lies, and its studies beside it: each a sweep of its own, NAME-KIND.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sweeps.config.old_records import check_resolved
from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.mini.world import name_of
from sweeps.storage.address import Address, folder_of, is_address
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError, explain
from sweeps.storage.remote_sync import refresh
from sweeps.storage.run_lock import living_drivers
from sweeps.storage.study_paths import RESOLVED, StudyPaths

_SUFFIXES = (".yaml", ".yml")
_NEITHER = "there is no configuration file, and no sweep's folder"


_ASIDE = "x-"
"""Top-level keys that begin so hold what anchors are put on, and are no configuration."""

_MERGE = "tag:yaml.org,2002:merge"
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*:.*)")
_MOST_DIGITS = 60
_NOT_CONSTRUCTED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises for `2026-13-01`, `!!bool x`, `!!timestamp x` or a thousand brackets."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML, but a key that stands twice is refused instead of the first being dropped.

    Anchors, aliases and merge keys (``<<: *defaults``) are read; a key beside ``<<`` goes before
    what is merged, and is not counted as standing twice.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Look at the keys as they are written: later, what is merged stands among them."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            merges = key_node.tag == _MERGE
            key = "<<" if merges else self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"line {line}: expected a word as key, found {key!r:.80}")
            if key in seen:
                several = "; expected <<: [*one, *other]" if merges else ""
                raise UserError(
                    f"line {line}: the key '{key}' stands twice in one mapping{several}"
                )
            seen.add(key)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A decimal number: YAML 1.1 has 1:30 for 90 and 010 for 8, which nobody means here; and
        no number that Python would not write down again."""
        if _OTHER_BASE.fullmatch(node.value) or len(node.value) > _MOST_DIGITS:
            shown = node.value[:_MOST_DIGITS]
            raise UserError(
                f"line {node.start_mark.line + 1}: expected a decimal number, found {shown}"
            )
        is_float = node.tag.endswith(":float")
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)


for _tag in ("int", "float"):
    _UniqueKeyLoader.add_constructor(
        f"tag:yaml.org,2002:{_tag}", _UniqueKeyLoader.construct_number
    )


def read_yaml(text: str) -> Any:
    """YAML as plain values.

    Raises:
        UserError: it is none, or a key stands twice or is no word; names the line where known.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except UserError:
        raise
    except (yaml.YAMLError, *_NOT_CONSTRUCTED) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"not valid YAML: {' '.join(said.split())}") from None


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
    atomic_write(paths_for(config).config_file(), text, mode=0o600)


def _named(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _named(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_named(value) for value in tree]
    return ",".join(map(name_of, tree.split(","))) if isinstance(tree, str) else tree


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        what = "no such configuration file" if path.suffix in _SUFFIXES else _NEITHER
        raise UserError(f"{path}: {what}{_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a text file: {error}") from None
    try:
        tree = read_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: expected a mapping of keys at the top, found {type(tree).__name__}"
        )
    return {key: value for key, value in tree.items() if not key.startswith(_ASIDE)}


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
    check_resolved(tree, folder)
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
    refresh(StudyPaths(storage.mirror() / name, storage))
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
        raise UserError(f"override {override!r:.200}: expected key=value, as search.trials=4")
    try:
        value = read_yaml(text)
    except UserError as error:
        said = str(error).removeprefix("line 1: ")
        raise UserError(f"override {override!r:.200}: {said}") from None
    *parents, last = (part.strip() for part in key.split("."))
    if not all((*parents, last)):
        raise UserError(f"override {override!r:.200}: expected names with single points between")
    here: Any = tree
    for parent in parents:
        here = _child(here, parent, override)
    if isinstance(here, list):
        here[_index(here, last, override)] = value
    elif isinstance(here, dict):
        here[last] = value
    else:
        raise UserError(f"override {override!r:.200}: '{'.'.join(parents)}' holds a single value")


def _child(here: Any, key: str, override: str) -> Any:
    """What lies below, as a copy put in its place: a file's aliases share one value."""
    if not isinstance(here, list | dict):
        raise UserError(f"override {override!r:.200}: nothing lies below the value before '{key}'")
    at: Any = _index(here, key, override) if isinstance(here, list) else key
    below = here[at] if isinstance(here, list) else here.get(at)
    here[at] = {} if below is None else copy(below)
    return here[at]


def _index(here: list[Any], key: str, override: str) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= len(here):
        raise UserError(
            f"override {override!r:.200}: '{key}' is no index into a list of {len(here)}"
        )
    return int(key)


def study_name(config: SweepConfig, kind: Kind) -> str:
    """The name of the sweep that one study of a paper is."""
    return f"{config.name}-{kind}"


def study_paths(config: SweepConfig, kind: Kind) -> StudyPaths:
    """Where it lies, or will."""
    return paths_for(config.model_copy(update={"name": study_name(config, kind)}))


def report_folder(config: SweepConfig) -> Path:
    """Where the report over all studies lies, or will; it is there once the paper has begun."""
    return paths_for(config).folder / "paper"


def put_on_record(config: SweepConfig) -> None:
    """A paper whose paths are resolved begins: from now on its folder says what it is."""
    report_folder(config).mkdir(exist_ok=True)
    if paths_for(config).address is not None:  # an object store has no empty folders
        (report_folder(config) / "begun").touch()
    if is_paper(config):
        save_config(config)


def is_paper(config: SweepConfig) -> bool:
    """Whether what has this name is a paper; where it was run as a sweep, too, it is that."""
    return report_folder(config).is_dir() and not paths_for(config).created_marker().is_file()
