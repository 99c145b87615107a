"""The paths of a run, made absolute: files here, the embedded world's names, the hub's names.

The address of a PostgreSQL database, which many sweeps may share.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from evaluators.protocol import is_own
from evaluators.rows import is_hub
from sweeps.finetune import hub
from sweeps.finetune.finetune_config import (
    BenchmarkConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
)
from sweeps.finetune.strict_model import split_paths
from sweeps.mini.world import resolve as resolve_mini
from sweeps.storage.errors import SecretError


def resolve_model(model: ModelConfig, root: Path) -> ModelConfig:
    """The model's folder, or the hub's name as it is."""
    return model.model_copy(update={"path": _named(model.path, root)})


def resolve_data(data: DataConfig, root: Path) -> DataConfig:
    """The training files, comma separated, or the hub's name as it is.

    Raises:
        ValueError: a folder of them has a comma in its name.
    """
    parts = split_paths(data.path)
    resolve_one = _named if len(parts) == 1 else _local
    found = [resolve_one(part, root) for part in parts]
    for part, path in zip(parts, found, strict=True):
        if "," in path:
            raise ValueError(
                f"data.path {part}: it lies at {path}, but a ',' separates training files; "
                "expected a folder without one in its name (GMT_SWEEP_CACHE for mini: files)"
            )
    return data.model_copy(update={"path": ",".join(found)})


def resolve_benchmark(benchmark: BenchmarkConfig, root: Path) -> BenchmarkConfig:
    """The items' files or hub names, and the file of a benchmark of the user's own."""
    places = {"validation": benchmark.validation, "test": benchmark.test}
    if is_own(benchmark.name):
        places["name"] = benchmark.name
    return benchmark.model_copy(update={name: _items(path, root) for name, path in places.items()})


def resolve_run(run: FinetuneConfig, root: Path) -> FinetuneConfig:
    """All paths of one run."""
    benchmarks = tuple(resolve_benchmark(b, root) for b in run.evaluation.benchmarks)
    return run.model_copy(
        update={
            "model": resolve_model(run.model, root),
            "data": resolve_data(run.data, root),
            "evaluation": run.evaluation.model_copy(update={"benchmarks": benchmarks}),
        }
    )


def _named(path: str, root: Path) -> str:
    opened = resolve_mini(path)
    return opened if opened != path else hub.resolve(path, root)


def _items(path: str, root: Path) -> str:
    return path if is_hub(path) else _local(path, root)


def _local(path: str, root: Path) -> str:
    opened = resolve_mini(path)
    return opened if opened != path else str((root / Path(path).expanduser()).resolve())


SCHEME = "postgresql"
_LIKE = "expected postgresql://USER@HOST:PORT/NAME"


def check_database(url: str) -> str:
    """A database's address as SQLAlchemy takes it.

    Raises:
        ValueError: what is wrong with it, and what was expected; a secret is not repeated.
    """
    parts = urlsplit(url)
    if parts.password or "password" in parse_qs(parts.query):
        raise SecretError(
            "an address with a password in it, which a sweep's records would show to everybody: "
            f"{_LIKE}, and the password in the environment as PGPASSWORD, or in ~/.pgpass"
        )
    if parts.scheme in ("postgres", "psql", "pg", "postgresql+psycopg"):
        raise ValueError(f"{url!r}: did you mean '{SCHEME}://{parts.netloc}{parts.path}'?")
    if parts.scheme != SCHEME:
        raise ValueError(
            f"{url!r}: {_LIKE}; without this key the studies' database is a file of the storage"
        )
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if not (parts.hostname and port_is_fine and parts.path.strip("/")):
        raise ValueError(f"{url!r}: {_LIKE}, with the host and the database's name")
    return url
