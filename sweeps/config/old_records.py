"""Sweeps that another version ran, refused by a sentence that says what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps.config.validation_errors import RENAMED
from sweeps.storage.errors import UserError

SCHEMA = 3
"""Part of every study's definition; raise it when a default changes, which a definition leaves
out, or when records change, and say below which version reads the former ones."""

READ_BY = {1: "gmt-sweep 0.1.0", 2: "gmt-sweep 0.1.0"}
"""What reads the records of a former schema."""

NEWER = "a newer version of gmt-sweep"


def check_schema(definition: Mapping[str, Any], folder: Path) -> None:
    """Refuse a study on record that another version ran; an empty definition is of none.

    Raises:
        UserError: naming that version.
    """
    schema = definition.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise _other_version(folder, READ_BY.get(schema, NEWER))


def check_resolved(tree: Mapping[str, Any], folder: Path) -> None:
    """Refuse the configuration in a sweep's folder where its keys are those of another version.

    Raises:
        UserError: naming that version.
    """
    if _has_old_keys(tree):
        raise _other_version(folder, READ_BY[2])


def _has_old_keys(tree: Mapping[str, Any]) -> bool:
    inside = {key: below for key, below in tree.items() if isinstance(below, dict)}
    names = {f"{key}.{name}" for key, below in inside.items() for name in below}
    return not names.isdisjoint(RENAMED) or any(map(_has_old_keys, inside.values()))


def _other_version(folder: Path, version: str) -> UserError:
    return UserError(
        f"{folder}: {version} ran this sweep; this version cannot read its records or repeat its "
        f"scores. Continue or read it with {version}, or run its YAML file under another name, "
        f"for example name={folder.name}2"
    )
