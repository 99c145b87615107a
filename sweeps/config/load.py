"""Load and save a sweep's configuration: YAML plus ``key=value`` overrides, fully validated.

Also where a paper is stored: each of its studies is a sweep named NAME-KIND beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from sweeps.config.old_records import check_resolved
from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.validation_errors import checked
from sweeps.finetune.hub import similar_path
from sweeps.mini.world import name_of
from sweeps.storage.address import Address, folder_of, is_address
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.errors import UserError
from sweeps.storage.remote_sync import refresh, stored_sweeps
from sweeps.storage.run_lock import StartingError, local_driver
from sweeps.storage.study_paths import RESOLVED, StudyPaths

_SUFFIXES = (".yaml", ".yml")
_NEITHER = "no such configuration file or sweep folder"


_ASIDE = "x-"
"""Top-level keys with this prefix hold YAML anchors and are not part of the configuration."""

_MERGE = "tag:yaml.org,2002:merge"
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*:.*)")
_MOST_DIGITS = 60
_NOT_CONSTRUCTED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises for `2026-13-01`, `!!bool x`, `!!timestamp x` or a thousand brackets."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML that rejects duplicate keys instead of dropping the first one.

    Anchors, aliases and merge keys (``<<: *defaults``) work. A key beside ``<<`` overrides the
    merged one and is not a duplicate.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check the keys as written, before merged keys are added."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key_node, _ in node.value:
            merges = key_node.tag == _MERGE
            key = "<<" if merges else self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(f"line {line}: expected a word as a key, found {key!r:.80}")
            if key in seen:
                several = "; expected <<: [*one, *other]" if merges else ""
                raise UserError(f"line {line}: duplicate key '{key}' in one mapping{several}")
            seen.add(key)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A decimal number of at most 60 digits.

        YAML 1.1 would read 1:30 as 90 and 010 as 8, which nobody means here.
        """
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
    """Parse YAML into plain values.

    Raises:
        UserError: invalid YAML, a duplicate key, or a key that is not a word; names the line if
            known.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise UserError(f"{line}not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, *_NOT_CONSTRUCTED) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"not valid YAML: {' '.join(said.split())}") from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Load, override and validate a configuration.

    Args:
        path: a YAML file, or the folder of a sweep, STORAGE/NAME, also in an object store.
        overrides: as on the command line, such as `["search.trials=4", "space.mask_ratio=0.2"]`.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown, a value is out of bounds, or
            an override is malformed; the message names the place and what was expected.
    """
    if is_address(str(path)):
        return parse_config(_overridden(_read_address(str(path)), overrides), str(path))
    if not Path(path).is_dir():
        return parse_config(load_tree(path, overrides), str(path))
    return parse_config(_overridden(_read_folder(Path(path)), overrides), str(path))


def load_tree(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file with its overrides as a tree of plain values; the keys are not checked.

    Raises:
        UserError: the file is missing or not YAML, or an override is malformed.
    """
    return _overridden(_read(Path(path)), overrides)


def load_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """``a.b=value`` arguments as a tree of plain values; the keys are not checked.

    Raises:
        UserError: an argument is malformed.
    """
    return _overridden({}, overrides)


def _overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    keys = Counter(override.partition("=")[0].strip() for override in overrides)
    if several := [key for key, count in keys.items() if count > 1]:
        raise UserError(f"override {several[0]}: given {keys[several[0]]} times; expected once")
    return reduce(_applied, overrides, tree)


def parse_config(tree: dict[str, Any], source: str = "configuration") -> SweepConfig:
    """Validate a configuration given as a tree of plain values.

    Raises:
        UserError: as in ``load_config``.
    """
    return checked(SweepConfig, source, tree)


def save_config(config: SweepConfig) -> None:
    """Write a configuration with resolved paths into its sweep's folder, atomically.

    Paths of the embedded world are written as names, because its files lie elsewhere on another
    machine. Only the owner can read the file, which may hold a webhook's address.
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
        why = getattr(error, "strerror", error)
        raise UserError(f"{path}: cannot be read as a text file: {why}") from None
    try:
        tree = read_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        found = "an empty file" if tree is None else type(tree).__name__
        raise UserError(f"{path}: expected a mapping of keys at the top, found {found}")
    return {key: value for key, value in tree.items() if not key.startswith(_ASIDE)}


def _read_folder(folder: Path) -> dict[str, Any]:
    """The configuration in a sweep's folder, which may have been moved or mounted elsewhere."""
    folder = folder.resolve()
    if not (folder / RESOLVED).is_file():
        if driver := local_driver(folder):
            raise StartingError(folder, driver)
        inside = sorted(file.parent.name for file in folder.glob(f"*/{RESOLVED}"))
        raise UserError(
            f"{folder}: no {RESOLVED} in this folder; expected a YAML file or the folder of a "
            f"sweep that has been run (STORAGE/NAME){_among(inside)}"
        )
    tree = _read(folder / RESOLVED)
    check_resolved(tree, folder)
    if tree.get("name") != folder.name:
        raise UserError(
            f"{folder}: expected the folder to have its sweep's name, '{tree.get('name')}'"
        )
    return {**tree, "storage": _storage(str(tree.get("storage")), folder)}


def _read_address(address: str) -> dict[str, Any]:
    """As `_read_folder`, for a sweep in an object store; downloads it first."""
    try:
        storage, name = Address.parse(address).split()
    except ValueError as error:
        raise UserError(str(error)) from None
    if not name:
        raise UserError(f"{address}: expected the folder of a sweep (STORAGE/NAME)")
    inside, folder = stored_sweeps(Address.parse(address)), storage.mirror() / name
    if not inside:
        refresh(StudyPaths(folder, storage))
    if inside or not (folder / RESOLVED).is_file():
        raise UserError(
            f"{address}: no sweep found; expected STORAGE/NAME of a sweep that was run"
            f"{_among(inside)}"
        )
    return {**_read_folder(folder), "storage": str(storage)}


def _among(sweeps: list[str]) -> str:
    """The sweeps of a storage that was given in place of one of them."""
    return f", here one of: {', '.join(sweeps)}" if sweeps else ""


def _storage(recorded: str, folder: Path) -> str:
    """The storage that holds a sweep's folder; for a mirror, the address it mirrors."""
    if is_address(recorded) and folder_of(recorded).resolve() == folder.parent:
        return recorded
    return str(folder.parent)


def _near(path: Path) -> str:
    """A suggestion: the file that was probably meant, or the configurations shipped."""
    if similar := similar_path(path, lambda file: file.suffix in _SUFFIXES):
        return similar
    names = sorted(file.name for file in (Path(__file__).parent.parent / "configs").glob("*.yaml"))
    return f" (shipped with the package, in sweeps/configs: {', '.join(names)})"


def _applied(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """The tree with ``a.b.c=value``, parsed as YAML. Validation finds unknown keys."""
    place = f"override {override!r:.200}"
    key, separator, text = override.partition("=")
    names = [part.strip() for part in key.split(".")]
    if not separator or not key.strip():
        raise UserError(f"{place}: expected key=value, for example search.trials=4")
    if not all(names):
        raise UserError(f"{place}: expected names separated by single dots")
    try:
        value = read_yaml(text)
    except UserError as error:
        said = str(error).removeprefix("line 1: ")
        quotes = "; text with special characters needs quotes" if "not valid YAML" in said else ""
        raise UserError(f"{place}: {said}{quotes}") from None
    changed: dict[str, Any] = _with(tree, names, value, place)
    return changed


def _with(here: Any, keys: Sequence[str], value: Any, place: str) -> Any:
    """A copy of ``here`` with the value at ``keys``: YAML aliases share what is not changed."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(here, list):
        if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= len(here):
            raise UserError(f"{place}: '{key}' is not an index into a list of {len(here)}")
        index = int(key)
        return [*here[:index], _with(here[index], rest, value, place), *here[index + 1 :]]
    if here is not None and not isinstance(here, dict):
        raise UserError(f"{place}: the key above '{key}' holds a single value, not keys")
    below = here or {}
    return {**below, key: _with(below.get(key), rest, value, place)}


def study_name(config: SweepConfig, kind: Kind) -> str:
    """The name of the sweep that runs one study of a paper."""
    return f"{config.name}-{kind}"


def study_paths(config: SweepConfig, kind: Kind) -> StudyPaths:
    """The paths of one study of a paper."""
    return paths_for(config.model_copy(update={"name": study_name(config, kind)}))


def report_folder(config: SweepConfig) -> Path:
    """The folder of the report over all studies; it exists once the paper has started."""
    return paths_for(config).folder / "paper"


def put_on_record(config: SweepConfig) -> None:
    """Mark the folder as a paper's when it starts; the paths of ``config`` are resolved."""
    report_folder(config).mkdir(exist_ok=True)
    if paths_for(config).address is not None:  # an object store has no empty folders
        (report_folder(config) / "begun").touch()
    if is_paper(config):
        save_config(config)


def is_paper(config: SweepConfig) -> bool:
    """Whether this name belongs to a paper; if it was also run as a sweep, it is that sweep."""
    return report_folder(config).is_dir() and not paths_for(config).created_marker().is_file()
