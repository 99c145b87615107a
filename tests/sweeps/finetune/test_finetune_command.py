"""`python -m sweeps finetune`: the same run as a trial's, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.execution.single_run import load_single_run
from sweeps.execution.trial_worker import run_trial
from sweeps.finetune.reporter import FolderReporter
from sweeps.finetune.run_costs import PEAK_MEMORY
from tests.sweeps.finetune.faulty_rows import READ, REFUSED, save_faulty
from tests.sweeps.finetune.tiny import assert_equal, config, parameters
from tests.sweeps.jobs import trial_job
from tests.sweeps.memory_tracker import MemoryTracker, StudyRecord


@pytest.fixture
def run_yaml(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config(world).model_dump(mode="json")))
    return path


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_the_example_loads(root: Path) -> None:
    run = load_single_run(root / "examples" / "finetune_mini.yaml").run_config()
    assert run.steps(workers=4) == 24
    assert Path(run.model.path).is_absolute()


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, ["finetune", *arguments])


def without_seconds(metrics: dict[str, float]) -> dict[str, float]:
    """Without what another process may measure differently: times and memory."""
    return {
        name: value
        for name, value in metrics.items()
        if not name.endswith("_seconds") and name != PEAK_MEMORY
    }


def test_the_result_is_a_trials(run_yaml: Path, tmp_path: Path, group_of_one: None) -> None:
    done = call(str(run_yaml), "folder=single", "learning_rate=0.02")
    assert done.exit_code == 0, done.output
    single = json.loads((tmp_path / "single" / "result.json").read_text())
    run = load_single_run(run_yaml, ["learning_rate=0.02"]).run_config()
    job = trial_job(folder=str(tmp_path / "trial"), run=run)
    trial = run_trial(job, lambda _: True, {})
    assert trial is not None
    assert single["fingerprint"] == _fingerprint(tmp_path / "trial")
    for name in ("state", "step", "steps", "score", "reason"):
        assert single[name] == getattr(trial, name)
    assert without_seconds(single["metrics"]) == without_seconds(trial.metrics)
    assert_equal(parameters(single["model_folder"]), parameters(trial.model_folder))
    assert f"score {trial.score:.4f}" in done.stdout
    assert single["model_folder"] in done.stdout


def _fingerprint(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["fingerprint"])


def test_a_finished_run_is_shown_again_and_not_run_again(run_yaml: Path, tmp_path: Path) -> None:
    first = call(str(run_yaml), "folder=out")
    model = tmp_path / "out" / "model" / "model.safetensors"
    written = model.stat().st_mtime_ns
    assert call(str(run_yaml), "folder=out").stdout == first.stdout
    assert model.stat().st_mtime_ns == written
    refused = call(str(run_yaml), "folder=out", "seed=1")
    assert refused.exit_code == 2
    assert "another config" in refused.stderr


def test_mlflow_is_told_where_asked(
    run_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: dict[str, StudyRecord] = {}
    addresses: list[str] = []

    def tracker(uri: str) -> MemoryTracker:
        addresses.append(uri)
        return MemoryTracker(store)

    monkeypatch.setattr("sweeps.tracking.mlflow_tracker.MlflowTracker", tracker)
    done = call(str(run_yaml), "folder=out", "tracking.uri=http://somewhere")
    assert done.exit_code == 0, done.output
    assert addresses == ["http://somewhere"]
    (study,) = store.values()
    (trial,) = study.trials.values()
    assert (study.state, trial.state) == ("finished", "finished")
    assert sorted(trial.points["train/loss"]) == [1, 2, 3, 4, 5, 6]
    score = json.loads((tmp_path / "out" / "result.json").read_text())["score"]
    assert trial.finals["final/score"] == score


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["learning_rat=1"], ["unknown key 'learning_rat'", "did you mean 'learning_rate'?"]),
        (["method.nme=sft"], ["unknown key 'method.nme'", "'name'"]),
        (["method.mask_ratio=1.5"], ["method.mask_ratio: expected a number less than 1, got 1.5"]),
        (["examples=50"], ["multiple of the effective batch 8", "got 50"]),
        (["data.path=none.jsonl"], ["none.jsonl", "nothing there"]),
        (["model.path=models/typo"], ["model.path models/typo", "no such folder", "hub"]),
        (["data.max_length=4096"], ["data.max_length", "context of 64 tokens", "4096"]),
        (["learning_rate"], ["expected key=value"]),
    ],
)
def test_a_mistake_is_one_paragraph(
    run_yaml: Path, tmp_path: Path, overrides: list[str], says: list[str]
) -> None:
    done = call(str(run_yaml), "folder=out", *overrides)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in says:
        assert words in done.stderr
    assert not (tmp_path / "out" / "model").exists()


def test_a_divergence_is_told_by_the_exit_code(run_yaml: Path) -> None:
    done = call(str(run_yaml), "folder=out", "learning_rate=1e38", "clip_norm=null")
    assert done.exit_code == 1
    assert "diverged: update" in done.stderr


def test_lines_are_recorded_once_also_after_a_kill(world: Path, tmp_path: Path) -> None:
    first = FolderReporter(tmp_path)
    first.step(1, {"train/loss": 2.0})
    first.step(2, {"train/loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "step", "st')
    again = FolderReporter(tmp_path)
    again.step(2, {"train/loss": 1.0})
    again.step(3, {"train/loss": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives(run_yaml: Path, tmp_path: Path) -> None:
    batch = ["batch={fixed: global_batch, global_batch: 8}"]
    assert call(str(run_yaml), "folder=one", *batch).exit_code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "sweeps", "finetune", str(run_yaml)]
    done = subprocess.run(
        [*command, "folder=two", *batch],
        cwd=tmp_path,
        env={**_environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("score ") == 1
    one, two = (_losses(tmp_path / name) for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-5)


def _losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if line["kind"] == "step"]


def _environment() -> dict[str, Any]:
    import os

    root = str(Path(__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def test_faulty_rows_are_read_or_counted(run_yaml: Path, tmp_path: Path) -> None:
    files = save_faulty(tmp_path)
    path = f"data.path={files['rows']},{files['more']}"
    changes = ["data.format=messages", "data.max_length=64", "examples=16"]
    stopped = call(str(run_yaml), "folder=stopped", path, *changes)
    assert stopped.exit_code == 2
    assert "rows.jsonl.gz, line 13, message 2: expected a non-empty string" in stopped.stderr
    done = call(str(run_yaml), "folder=out", path, *changes, "data.on_bad_row=skip")
    assert done.exit_code == 0, done.output
    metrics = json.loads((tmp_path / "out" / "result.json").read_text())["metrics"]
    assert metrics["data/examples"] == 2 * len(READ)
    assert metrics["data/bad_rows"] == len(REFUSED)
    assert f"  skipped {len(REFUSED)} bad training rows (on_bad_row: skip)\n" in done.stdout
    for name in ("empty", "blank", "list", "header"):
        options = (*changes, "data.on_bad_row=skip")
        refused = call(str(run_yaml), "folder=none", f"{path},{files[name]}", *options)
        assert refused.exit_code == 2
        assert f"{files[name].name}: expected at least one example" in refused.stderr
    comma = call(str(run_yaml), "folder=none", f"{path},", *changes, "data.on_bad_row=skip")
    assert comma.exit_code == 2
    assert "data.path: expected a path, or several separated by commas" in comma.stderr
