"""Resolve the paths of a run, and validate the address of a PostgreSQL database.

The address of a PostgreSQL database, which many sweeps may share.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from evaluators.protocol import HARNESS, is_harness, is_own
from evaluators.rows import is_hub
from sweeps.finetune import hub
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.finetune_config import (
    BenchmarkConfig,
    ChecksConfig,
    FinetuneConfig,
    ModelConfig,
)
from sweeps.finetune.strict_model import split_paths
from sweeps.mini.world import resolve as resolve_mini
from sweeps.storage.errors import SecretError

Checks = TypeVar("Checks", bound=ChecksConfig)


def resolve_model(model: ModelConfig, root: Path) -> ModelConfig:
    """The model's folder, or its unchanged hub name."""
    return model.model_copy(update={"path": _named(model.path, root)})


def resolve_data(data: DataConfig, root: Path) -> DataConfig:
    """The training files of every source, comma separated, or an unchanged hub name.

    Raises:
        ValueError: the path of a training file contains a comma.
    """
    if not data.sources:
        return data.model_copy(update={"path": _training_files(data.path, root)})
    sources = {
        name: source.model_copy(update={"path": _training_files(source.path, root)})
        for name, source in data.sources.items()
    }
    return data.model_copy(update={"sources": sources})


def _training_files(path: str, root: Path) -> str:
    parts = split_paths(path)
    resolve_one = _named if len(parts) == 1 else _local
    found = [resolve_one(part, root) for part in parts]
    for part, place in zip(parts, found, strict=True):
        if "," in place:
            raise ValueError(
                f"data.path {part}: {place} contains ',', which separates training files; "
                "expected a path without a comma (for mini: files, set GMT_SWEEP_CACHE)"
            )
    return ",".join(found)


def resolve_benchmark(benchmark: BenchmarkConfig, root: Path) -> BenchmarkConfig:
    """The items' files or hub names, and the file of a user-defined benchmark."""
    places = {"validation": benchmark.validation, "test": benchmark.test}
    if is_own(benchmark.name):
        places["name"] = benchmark.name
    found = {name: _items(path, root) for name, path in places.items()}
    if is_harness(benchmark.name) and not is_harness(benchmark.validation):  # a task's YAML file
        found["name"] = f"{HARNESS}{found['validation']}"
    return benchmark.model_copy(update=found)


def resolve_checks(checks: Checks, root: Path) -> Checks:
    """The text of `forgetting`, if there is one."""
    if checks.forgetting is None:
        return checks
    return checks.model_copy(update={"forgetting": _items(checks.forgetting, root)})


def resolve_run(run: FinetuneConfig, root: Path) -> FinetuneConfig:
    """Resolve all paths of one run."""
    benchmarks = tuple(resolve_benchmark(b, root) for b in run.evaluation.benchmarks)
    start = run.start_from
    return run.model_copy(
        update={
            "start_from": start and str(Path(start).expanduser().resolve()),
            "model": resolve_model(run.model, root),
            "data": resolve_data(run.data, root),
            "evaluation": resolve_checks(run.evaluation, root).model_copy(
                update={"benchmarks": benchmarks}
            ),
        }
    )


def _named(path: str, root: Path) -> str:
    opened = resolve_mini(path)
    return opened if opened != path else hub.resolve(path, root)


def _items(path: str, root: Path) -> str:
    return path if is_hub(path) or is_harness(path) else _local(path, root)


def _local(path: str, root: Path) -> str:
    opened = resolve_mini(path)
    return opened if opened != path else str((root / Path(path).expanduser()).resolve())


SCHEME = "postgresql"
_LIKE = "expected postgresql://USER@HOST:PORT/NAME"


def check_database(url: str) -> str:
    """Validate a database address; returned as SQLAlchemy expects it.

    Raises:
        ValueError: names the error and what was expected; a password is not repeated.
    """
    parts = urlsplit(url)
    if parts.password or "password" in parse_qs(parts.query):
        raise SecretError(
            "the address contains a password, which every reader of the records would see: "
            f"{_LIKE}, and the password in PGPASSWORD or ~/.pgpass"
        )
    if parts.scheme in ("postgres", "psql", "pg", "postgresql+psycopg"):
        raise ValueError(f"{url!r}: did you mean '{SCHEME}://{parts.netloc}{parts.path}'?")
    if parts.scheme != SCHEME:
        raise ValueError(
            f"{url!r}: {_LIKE}; without this key the database is a file in the storage"
        )
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if not (parts.hostname and port_is_fine and parts.path.strip("/")):
        raise ValueError(f"{url!r}: {_LIKE}, with a host and a database name")
    return url
