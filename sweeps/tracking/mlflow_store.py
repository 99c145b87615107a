"""Connect to MLflow: check its store, convert names and values, and translate its errors.

The store is an SQLite file or a server. MLflow itself waits minutes for a server that does not
respond, and reports a bad SQLite path as a traceback; this check takes seconds and reports one
sentence.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit, urlunsplit

from sweeps.storage.address import SQLITE, sqlite_address, sqlite_path
from sweeps.storage.errors import UserError
from sweeps.tracking.tracker import TrackingError, TrackingRefused, TrialInfo, parameter_texts

if TYPE_CHECKING:
    from mlflow.entities import Param


T = TypeVar("T")


def params(trial: TrialInfo) -> list[Param]:
    """The trial's parameters, plus the logarithm of the learning rate for charts."""
    from mlflow.entities import Param

    from sweeps.tracking.compare_view import LOG_LEARNING_RATE

    texts = parameter_texts(trial)
    if "learning_rate" in trial.parameters:
        texts[LOG_LEARNING_RATE] = f"{math.log10(float(trial.parameters['learning_rate'])):.4f}"
    return [Param(name, value) for name, value in texts.items()]


def named(values: Mapping[str, T]) -> dict[str, T]:
    """Metrics or tags with names that MLflow accepts: "pass@1" becomes "pass_at_1"."""
    return {
        re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_")): value
        for name, value in values.items()
    }


def finite(value: float) -> float:
    """Infinity as NaN: MLflow would store 1.8e308, which flattens every chart."""
    return float("nan") if math.isinf(value) else value


ANSWER_SECONDS = 5.0
REFUSALS = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "BAD_REQUEST"}
"""MLflow's codes for errors that a retry cannot fix, such as a point for a deleted run."""


def check_store(uri: str) -> None:
    """Raise `TrackingError` if the store at `uri` cannot be used; takes 5 s at most."""
    if uri.startswith(SQLITE):
        try:
            file = sqlite_path(uri)
        except ValueError as error:
            raise TrackingError(f"tracking uri {error}.") from None
        _check_sqlite(uri, file)
    elif urlsplit(uri).scheme in ("http", "https"):
        _check_server(public_address(uri))
    else:
        raise TrackingError(
            f"tracking uri {uri!r}: expected sqlite:///FILE or http(s)://HOST:PORT, "
            "such as sqlite:///mlflow.db."
        )


def tracking_uri(given: str | None, storage: str) -> str:
    """The given MLflow address, else ``MLFLOW_TRACKING_URI``, else a SQLite file in the storage.

    Raises:
        UserError: the address contains a password, which every reader of the records would see.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri and urlsplit(uri).password:
        raise UserError(
            f"tracking.uri {public_address(uri)}: expected an address without a password; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    return uri or sqlite_address(Path(storage).expanduser().resolve() / "mlflow.db")


def public_address(uri: str) -> str:
    """The server's address without user name and password, safe to print."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


def _check_sqlite(uri: str, path: Path | None) -> None:
    if path is None or not path.name or path.is_dir():
        raise TrackingError(f"tracking uri {uri!r}: expected a file name after {SQLITE}.")
    if not path.parent.is_dir():
        raise TrackingError(
            f"tracking uri {uri!r}: the folder {path.parent} does not exist; create it first."
        )
    existed = path.exists()
    try:
        opened = sqlite3.connect(path, timeout=ANSWER_SECONDS - 1, isolation_level=None)
        with closing(opened) as connection:
            connection.execute("BEGIN IMMEDIATE")  # takes the write lock, writes nothing
            connection.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        raise TrackingError(
            f"tracking uri {uri!r}: {path} cannot be written ({error})."
        ) from error
    finally:
        if not existed and path.exists() and path.stat().st_size == 0:
            path.unlink()


def _check_server(address: str) -> None:
    outcome: list[str] = []
    # A thread, because the timeout covers neither name resolution nor several addresses.
    probe = threading.Thread(target=lambda: outcome.append(_probe(address)), daemon=True)
    probe.start()
    probe.join(ANSWER_SECONDS)
    problem = outcome[0] if outcome else f"no response within {ANSWER_SECONDS:g} s"
    if problem:
        raise TrackingError(f"MLflow server {address} cannot be used: {problem}.")


def _probe(address: str) -> str:
    """What is wrong with the server; "" if it responds."""
    try:
        code, body = _answer(f"{address}/health")
        if code == 200 and body.strip() == b"OK":
            # It also answers a host name that it rejects everywhere else.
            page = "api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
            code, body = _answer(f"{address}/{page}")
            is_refused = code == 403 and b"host header" in body.lower()
            return _http_problem(code) if is_refused else ""
    except (OSError, ValueError) as error:
        return f"it does not respond ({getattr(error, 'reason', error)})"
    return "a program other than MLflow responds there" if code == 200 else _http_problem(code)


def _answer(page: str) -> tuple[int, bytes]:
    """The status and the beginning of a page."""
    try:
        with urllib.request.urlopen(page, timeout=ANSWER_SECONDS) as answer:
            return answer.status, answer.read(1000)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(1000)


def _http_problem(code: int) -> str:
    if code == 401:  # it runs; the real calls send MLFLOW_TRACKING_USERNAME and _PASSWORD
        return ""
    if code == 403:
        return "it rejects this host name (403); start it with --allowed-hosts HOST:PORT"
    return f"its /health page returns status {code}"


@contextmanager
def reported(action: str) -> Iterator[None]:
    """Translate MLflow's exceptions into one sentence.

    Raises:
        TrackingRefused: MLflow rejected the call and would reject it again.
        TrackingError: anything else, such as an outage.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:500]
        kind = TrackingRefused if getattr(error, "error_code", "") in REFUSALS else TrackingError
        raise kind(f"MLflow could not {action}: {reason}") from error
