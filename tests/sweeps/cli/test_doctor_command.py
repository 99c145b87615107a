"""``python -m sweeps doctor`` on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app

MINI = str(Path(__file__).resolve().parents[3] / "sweeps" / "configs" / "mini.yaml")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    return done.exit_code, done.output


def test_it_names_every_family(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json", MINI, f"storage={tmp_path / 'runs'}"])
    document = json.loads(done.stdout)
    findings = {finding["name"]: finding for finding in document["result"]["this machine"]}
    families = {"versions", "sweeps package", "GPUs", "storage", "disk", "memory", "sandbox"}
    assert families | {"MLflow"} <= set(findings)
    failed = [name for name, each in findings.items() if not each["ok"]]
    assert done.exit_code == bool(failed)
    assert (document["error"] is not None) == bool(failed)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_told_with_what_mends_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, said = run(MINI, f"storage={tmp_path / 'file' / 'runs'}")
    assert code == 1
    assert "FAILED  storage" in said and "to fix: use another folder" in said


def test_without_a_sweep_it_checks_what_holds_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, said = run()
    assert "versions" in said and "MLflow" not in said and "job folder" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_the_sweep_is_one_paragraph() -> None:
    code, said = run(MINI, "storagee=x")
    assert code == 2 and "storage" in said and "Traceback" not in said


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    code, said = run(MINI, "tracking.uri=http://me:secret@head:5000")
    assert code == 2 and "MLFLOW_TRACKING_PASSWORD" in said and "secret" not in said
