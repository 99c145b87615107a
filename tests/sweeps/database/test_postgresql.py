"""Studies in a real PostgreSQL; skipped where its programs or psycopg are not installed."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sweeps.config import SweepConfig, resolve_paths
from sweeps.errors import UserError
from sweeps.folder.load import load_config
from sweeps.folder.place import place_of
from sweeps.search import open_storage
from sweeps.search.records import Records, recorded_rows
from sweeps.study import open_study, validate
from sweeps.workers.cluster import free_port
from tests.sweeps.played import FINISHED, play

PASSWORD = "swordfish"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
pytestmark = pytest.mark.skipif(
    not (PROGRAMS or shutil.which("initdb")) or find_spec("psycopg") is None,
    reason="needs PostgreSQL's server programs, and psycopg",
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an empty database on the loopback interface that asks for a password."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    path = os.pathsep.join([*map(str, PROGRAMS), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="pg-") as home:
        secret, port = Path(home) / "secret", free_port()
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:  # PostgreSQL does not run as root
            shutil.chown(home, user)
            shutil.chown(secret, user)

        def run(*command: str) -> None:
            prefix = ["runuser", "-u", user, "--"] if os.geteuid() == 0 else []
            line = [*prefix, "env", f"PATH={path}", *command]
            subprocess.run(line, check=True, capture_output=True, cwd=home)

        data, options = f"{home}/data", f"-h 127.0.0.1 -p {port} -k {home}"
        run("initdb", "-A", "scram-sha-256", "-U", "gmt", "--pwfile", str(secret), "-D", data)
        run("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", f"{home}/log")
        try:
            yield f"postgresql://gmt@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "stop", "-m", "immediate", "-D", data)


@pytest.fixture
def sweep(
    server: str, sweep_files: Path, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The sweep of the current folder, under a name that the database does not know yet."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(open_storage, "ANSWER_SECONDS", 5)
    name = f"s{sweep_files.name}"[:60].replace("[", "").replace("]", "")
    Path("sweep.yaml").write_text(json.dumps(tree | {"name": name, "database": server}))
    return name


def again(**changes: Any) -> SweepConfig:
    tree = json.loads(Path("sweep.yaml").read_text())
    Path("sweep.yaml").write_text(json.dumps(tree | changes))
    return resolve_paths(load_config("sweep.yaml"))


def test_a_study_lies_in_the_database_and_nowhere_else(sweep: str) -> None:
    assert recorded_rows(again()) == {"sums": ()}
    config = play(FINISHED, FINISHED)
    place = place_of(config)
    assert [row.state for row in recorded_rows(config)["sums"]] == ["finished", "finished"]
    assert [row.score for row in Records(config).rows("sums")] == [0.5, 0.5]
    assert not place.optuna_copy().exists() and not place.is_copied()
    assert open_study(config, "sums").user_attrs["storage"] == config.storage
    texts = [file.read_text() for file in place.folder.rglob("*") if file.is_file()]
    assert texts and not any(PASSWORD in text for text in texts)


def test_another_storage_under_the_same_name_is_refused(sweep: str, tmp_path: Path) -> None:
    play(FINISHED)
    with pytest.raises(UserError, match=f"has a sweep named '{sweep}' whose trials lie in"):
        validate(again(storage=str(tmp_path / "elsewhere")))


def test_a_wrong_password_is_a_sentence(sweep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "guess")
    with pytest.raises(UserError, match=r"password authentication failed.*PGPASSWORD"):
        validate(again())


def test_a_server_that_does_not_answer_is_a_sentence(sweep: str) -> None:
    with pytest.raises(UserError, match=r"Connection refused.*Start the server"):
        validate(again(database=f"postgresql://gmt@127.0.0.1:{free_port()}/postgres"))
