"""Studies in a real PostgreSQL; skipped where its programs or psycopg are not installed."""

from __future__ import annotations

import io
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
from optuna.trial import TrialState
from sqlalchemy import event, text

from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution.cluster import free_port
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_session import DomainSession
from sweeps.execution.sweep import open_study, run_studies, validate
from sweeps.search import optuna_storage
from sweeps.search.trial_records import Records, recorded_rows
from sweeps.storage.errors import UserError
from sweeps.storage.interrupts import interruptible
from sweeps.storage.run_lock import acquire_run_lock
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, Groups, play

PASSWORD = "swordfish"
COMPLETE, RUNNING = TrialState.COMPLETE, TrialState.RUNNING
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
pytestmark = pytest.mark.skipif(
    not (PROGRAMS or shutil.which("initdb")) or find_spec("psycopg") is None,
    reason="needs PostgreSQL's server programs, and psycopg",
)


class Server:
    """A PostgreSQL on the loopback interface that asks for a password."""

    def __init__(self, home: Path) -> None:
        self._home, self._port = home, free_port()
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        secret = home / "secret"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            shutil.chown(home, self._user)
            shutil.chown(secret, self._user)
        method = ["-A", "scram-sha-256", "-U", "gmt", "--pwfile", str(secret)]
        self._run("initdb", *method, "-D", f"{home}/data")
        self.address = f"postgresql://gmt@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self._port} -k {self._home}"
        log = f"{self._home}/log"
        self._run("pg_ctl", "start", "-w", "-D", f"{self._home}/data", "-o", options, "-l", log)

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-m", mode, "-D", f"{self._home}/data")

    def _run(self, *command: str) -> None:
        prefix = ["runuser", "-u", self._user, "--"] if os.geteuid() == 0 else []
        path = os.pathsep.join([*map(str, PROGRAMS), os.environ["PATH"]])
        line = [*prefix, "env", f"PATH={path}", *command]
        subprocess.run(line, check=True, capture_output=True, cwd=self._home)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One with an empty database."""
    with tempfile.TemporaryDirectory(prefix="pg-") as home:
        server = Server(Path(home))
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


@pytest.fixture
def sweep(
    server: Server, sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The sweep of the current folder, under a name that the database does not know yet."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(optuna_storage, "ANSWER_SECONDS", 5)
    name = f"s{sweep_files.name}"[:60].replace("[", "").replace("]", "")
    Path("sweep.yaml").write_text(json.dumps(tree | {"name": name, "database": server.address}))
    return name


def again(**changes: Any) -> SweepConfig:
    tree = json.loads(Path("sweep.yaml").read_text())
    Path("sweep.yaml").write_text(json.dumps(tree | changes))
    return resolve_paths(load_config("sweep.yaml"))


def test_a_study_lies_in_the_database_and_nowhere_else(sweep: str) -> None:
    assert recorded_rows(again()) == {"sums": ()}
    config = play(FINISHED, FINISHED)
    place = paths_for(config)
    assert [row.state for row in recorded_rows(config)["sums"]] == ["finished", "finished"]
    assert [row.score for row in Records(config).rows("sums")] == [0.5, 0.5]
    assert not place.optuna_copy().exists() and not place.is_copied()
    assert open_study(config, "sums").user_attrs["storage"] == config.storage
    texts = [file.read_text() for file in place.folder.rglob("*") if file.is_file()]
    assert texts and not any(PASSWORD in text for text in texts)


def test_another_storage_under_the_same_name_is_refused(sweep: str, tmp_path: Path) -> None:
    play(FINISHED)
    with pytest.raises(UserError, match=f"has a sweep named '{sweep}' with trials in"):
        validate(again(storage=str(tmp_path / "elsewhere")))


def test_a_wrong_password_is_a_sentence(sweep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "guess")
    with pytest.raises(UserError, match=r"password authentication failed.*PGPASSWORD"):
        validate(again())


def test_a_server_that_does_not_answer_is_a_sentence(sweep: str) -> None:
    with pytest.raises(UserError, match=r"Connection refused.*Start the server"):
        validate(again(database=f"postgresql://gmt@127.0.0.1:{free_port()}/postgres"))


def test_a_server_that_is_started_again_goes_unnoticed(sweep: str, server: Server) -> None:
    config = play(FINISHED)
    study = open_study(config, "sums")
    records = Records(config)
    server.stop()
    again = threading.Timer(2.0, server.start)
    again.start()
    trial = study.ask()
    again.join()
    assert trial.number == 1
    assert [trial.state for trial in records.trials("sums")] == [COMPLETE, RUNNING]


def test_a_server_that_stays_away_is_a_sentence_and_nothing_is_lost(
    sweep: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_storage, "PATIENCE_SECONDS", 1.0)
    config = play(FINISHED)
    study = open_study(config, "sums")
    records = Records(config)
    server.stop()
    try:
        with pytest.raises(UserError, match=r"Connection refused.*Run the same command again"):
            study.ask()
        began = time.monotonic()
        with pytest.raises(UserError, match="Run the same command again"):
            study.ask()  # whoever asks then does not wait as long again
        assert time.monotonic() - began < 0.9
        with pytest.raises(UserError, match="Run the same command again"):
            records.rows("sums")
    finally:
        server.start()
    assert study.ask().number == 1
    assert [trial.state for trial in records.trials("sums")] == [COMPLETE, RUNNING]


def test_a_sweep_whose_server_stays_away_ends_with_the_sentence_and_waits_once(
    sweep: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batch(one: DomainSession) -> None:
        storages.add(id(one.study._storage._backend))  # type: ignore[attr-defined]
        if one.domain == "first":
            return
        server.stop()
        try:
            one.study.ask()
        except UserError:
            raise RuntimeError("with a traceback in it, as Tune has it")  # noqa: B904

    monkeypatch.setattr(optuna_storage, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(DomainSession, "batch", batch)
    tree = json.loads(Path("sweep.yaml").read_text())
    domains = {name: tree["domains"]["sums"] for name in ("first", "second")}
    config = again(domains=domains, resources={"domains": "side_by_side"})
    storages: set[int] = set()
    said, groups = io.StringIO(), cast(Any, Groups())
    try:
        with (
            acquire_run_lock(paths_for(config).folder) as driver,
            pytest.raises(UserError, match=r"Connection refused.*Run the same command again"),
        ):
            run_studies(config, LineDisplay(said), MemoryTracker(), groups, driver)
    finally:
        server.start()
    assert len(storages) == 1
    assert "still recorded as running" in said.getvalue()
    assert set(Records(config).begun()) == {"first", "second"}


def test_who_has_to_stop_waits_for_no_server(
    sweep: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(play(FINISHED), "sums")
    server.stop()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), interruptible() as number:
            threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
            study.ask()
    finally:
        server.start()
    assert time.monotonic() - began < 30


def test_a_call_that_the_server_cuts_off_is_made_once_more(sweep: str) -> None:
    study = open_study(play(FINISHED), "sums")
    engine = study._storage._backend.engine  # type: ignore[attr-defined]

    @event.listens_for(engine, "before_cursor_execute")
    def cut(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "study_user_attributes" in statement and not cuts:
            cuts.append(connection.connection.dbapi_connection.info.backend_pid)
            with engine.connect() as other:
                other.execute(text(f"select pg_terminate_backend({cuts[0]}, 5000)"))

    cuts: list[int] = []
    study.set_user_attr("note", "written")
    assert cuts
    assert study.user_attrs["note"] == "written"
