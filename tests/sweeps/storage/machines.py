"""What tests with an object store need of machines and their databases."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from sweeps.storage.study_paths import StudyPaths


def elsewhere(place: StudyPaths, tmp_path: Path) -> StudyPaths:
    """The same sweep as another machine has it."""
    return replace(place, folder=tmp_path / "elsewhere" / "sweep")


def quiet(text: str) -> None:
    """Nobody listens."""


def write(file: Path, value: int) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("create table if not exists t (x)")
        connection.execute("insert into t values (?)", (value,))
    connection.close()


def read(file: Path) -> list[int]:
    with sqlite3.connect(file) as connection:
        found = [x for (x,) in connection.execute("select x from t")]
    connection.close()
    return found
