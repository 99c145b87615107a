"""Read training rows from local files of several formats, a folder of them, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evaluators.errors import DataError
from evaluators.files import ENDINGS, BrokenFile, ending, records, without_nulls
from evaluators.hub import load_split
from sweeps.finetune import hub
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import Row, RowError
from sweeps.finetune.strict_model import split_paths


def read_source(config: DataConfig) -> Iterator[Row | RowError]:
    """Every row of `config.path` in order; a RowError in place of a row that is not an object."""
    if is_on_hub(config.path):
        yield from _hub_rows(config)
        return
    if config.revision or config.subset:
        raise RowError(
            f"data.path {config.path}: a local file has no revision or subset; expected "
            f"neither, or the name of a hub dataset"
        )
    for path in files(config.path):
        yield from read_file(path)


def is_on_hub(path: str) -> bool:
    """Whether `path` is a hub name: it looks like one, and no local file has this name."""
    return hub.may_be_name(path) and not Path(path).expanduser().exists()


def files(paths: str) -> list[Path]:
    """The existing files of a comma-separated list; a folder stands for its files."""
    return [file for part in split_paths(paths) for file in _files_at(Path(part).expanduser())]


def source_bytes(paths: str) -> int:
    """The total size of the local files."""
    return sum(path.stat().st_size for path in files(paths))


def read_file(path: Path) -> Iterator[Row | RowError]:
    """Every row of one file, at least one; its ending says if it is CSV, Parquet or JSON.

    Raises RowError if the file has no rows or becomes unreadable.
    """
    empty = True
    for row in _rows(path):
        empty = False
        yield row
    if empty:
        raise RowError(f"{path}: expected at least one example, found a file without rows")


def _files_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise RowError(f"data.path: expected a file or a folder at {place}, found nothing there")
    inside = sorted(path for path in place.iterdir() if ending(path) in ENDINGS)
    if not inside:
        raise RowError(
            f"data.path: expected files ending in {', '.join(ENDINGS)} in {place}, found none"
        )
    return inside


def _rows(path: Path) -> Iterator[Row | RowError]:
    try:
        for record in records(path):
            place = f"{path}, {record.unit} {record.number}"
            if record.fault is not None:
                expected, found = record.fault.expected, record.fault.found
                yield RowError(f"{place}: expected {expected}, found {found}")
            elif isinstance(record.value, dict):
                yield Row(place, record.value)
            else:
                yield RowError(f"{place}: expected one JSON object, found {record.value!r:.60}")
    except BrokenFile as error:
        raise RowError(f"{path}, {error}") from error
    except DataError as error:
        raise RowError(str(error)) from error


def _hub_rows(config: DataConfig) -> Iterator[Row | RowError]:
    """Rows of a hub dataset, through the cache of `datasets`."""
    try:
        rows = load_split(config.path, config.subset, config.split, config.revision)
    except DataError as error:
        raise RowError(
            f"data.path {config.path}: no such local file, and the hub has no such dataset: "
            f"{error}"
        ) from error
    for number, value in enumerate(rows, start=1):
        yield Row(f"{config.path} ({config.split}), row {number}", without_nulls(value))
