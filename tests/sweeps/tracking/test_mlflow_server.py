"""Smoke test against a real server on loopback: write, restart, read back, published view."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import StudyInfo, TrialInfo

STUDY = StudyInfo("s", "mini", "math", "domain: math\n", "abc", "note", {"trials": "1"})
TRIAL = TrialInfo("t", 0, {"mask_ratio": 0.5, "learning_rate": 0.01}, 0)


@pytest.mark.slow
def test_a_server_holds_the_study_once(server: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    for _ in range(2):
        tracker = MlflowTracker(server)
        run_id = tracker.begin_study(STUDY)
        tracker.begin_trial(TRIAL)
        for step in range(1500):
            tracker.log("t", step, {"train/loss": float(step)}, time=float(step))
        tracker.end_trial("t", "finished", {"final/score": 0.5})
        tracker.end_study("finished", [report], {"final/score": 0.5})
    from mlflow import MlflowClient

    client = MlflowClient(server)
    [experiment] = [e for e in client.search_experiments() if e.name == "gmt/math"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["gmt.kind"] for run in runs) == ["study", "trial"]
    [trial] = [run for run in runs if run.data.tags["gmt.kind"] == "trial"]
    assert len(client.get_metric_history(trial.info.run_id, "train/loss")) == 1500
    assert len(client.get_metric_history(trial.info.run_id, "final/score")) == 1
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files == {"config.yaml", "report.html"}
    ((label, link),) = tracker.links().items()
    view_id = link.partition("viewStateShareKey=")[2].partition("&")[0]
    assert label == "compare trials"
    assert link.startswith(f"{server}/#/experiments/{experiment.experiment_id}/runs?")
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{view_id}"])
    assert run_id in json.loads(view["state"])["searchFilter"]
    assert len(json.dumps(view)) < 20_000
