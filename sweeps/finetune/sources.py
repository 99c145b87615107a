"""Where training rows come from: local files of several kinds, a folder of them, or the hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.finetune import hub
from sweeps.finetune.config import DataConfig
from sweeps.finetune.rows import Row, RowError

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


def read_source(config: DataConfig) -> Iterator[Row | RowError]:
    """Every row of `config.path` in order; one that is no object comes as its RowError."""
    if is_on_hub(config.path):
        yield from _hub_rows(config)
        return
    if config.revision or config.subset:
        raise RowError(
            f"data.path {config.path}: a local file has no revision and no subset; expected "
            f"neither, or the name of a dataset on the hub"
        )
    for path in files(config.path):
        yield from read_file(path)


def is_on_hub(path: str) -> bool:
    """Whether `path` is a hub name: it has the form of one, and nothing of that name lies here."""
    return hub.may_be_name(path) and not Path(path).expanduser().exists()


def files(paths: str) -> list[Path]:
    """The existing files of a comma separated list; a folder stands for all that it holds."""
    found: list[Path] = []
    for part in paths.split(","):
        if part.strip():
            found += _files_at(Path(part.strip()).expanduser())
    if not found:
        raise RowError(f"data.path: expected a file or several, comma separated, got {paths!r}")
    return found


def source_bytes(paths: str) -> int:
    """The size of the local files."""
    return sum(path.stat().st_size for path in files(paths))


def read_file(path: Path) -> Iterator[Row | RowError]:
    """Every row of one file: its ending says whether it is CSV or Parquet, else it is JSON."""
    if path.suffix == ".csv":
        return _csv_rows(path)
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _json_rows(path)


def _files_at(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise RowError(f"data.path: expected a file or a folder at {place}, found nothing there")
    inside = sorted(path for path in place.iterdir() if path.suffix in ENDINGS)
    if not inside:
        raise RowError(
            f"data.path: expected files ending in {', '.join(ENDINGS)} in {place}, found none"
        )
    return inside


def _json_rows(path: Path) -> Iterator[Row | RowError]:
    try:
        with path.open(encoding="utf-8", newline="\n") as stream:
            first = stream.read(1)
            while first.isspace():
                first = stream.read(1)
            stream.seek(0)
            if first == "[":
                yield from _array(path, stream.read())
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _line(f"{path}, line {number}", line)
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: expected UTF-8 text, found {error.reason}") from error


def _array(path: Path, content: str) -> Iterator[Row | RowError]:
    try:
        values = json.loads(content)
    except json.JSONDecodeError as error:
        message = f"{path}, line {error.lineno}: expected a JSON array, found {error.msg}"
        raise RowError(message) from error
    for number, value in enumerate(values, start=1):
        yield _object(f"{path}, row {number}", value)


def _line(place: str, line: str) -> Row | RowError:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        shown = line.rstrip("\n")
        return RowError(f"{place}: expected one JSON object, found {error.msg} in {shown!r:.60}")
    return _object(place, value)


def _object(place: str, value: Any) -> Row | RowError:
    if isinstance(value, dict):
        return Row(place, value)
    return RowError(f"{place}: expected one JSON object, found {value!r:.60}")


def _csv_rows(path: Path) -> Iterator[Row | RowError]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            names = next(reader, [])
            if len(set(names)) != len(names):
                raise RowError(f"{path}, line 1: expected each column once, found {names}")
            for values in reader:
                place = f"{path}, line {reader.line_num}"
                if values and len(values) != len(names):
                    expected = f"expected {len(names)} fields, found {len(values)}"
                    yield RowError(f"{place}: {expected}")
                elif values:
                    yield Row(place, dict(zip(names, values, strict=True)))
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: expected UTF-8 text, found {error.reason}") from error
    except csv.Error as error:
        raise RowError(f"{path}, line {reader.line_num}: expected CSV, found {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row | RowError]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", value)
    except pyarrow.ArrowException as error:
        raise RowError(f"{path}: expected a Parquet file, found: {error}") from error


def _hub_rows(config: DataConfig) -> Iterator[Row | RowError]:
    """Rows of a dataset on the hub, through the cache of `datasets`."""
    hub_options = {"revision": config.revision, "split": config.split}
    import datasets

    place = f"{config.path} ({config.split})"
    try:
        rows = datasets.load_dataset(config.path, config.subset, **hub_options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise RowError(
            f"data.path {config.path}: nothing lies here, and the hub gives no such dataset: "
            f"{reason}"
        ) from error
    for number, value in enumerate(rows, start=1):
        yield Row(f"{place}, row {number}", value)
