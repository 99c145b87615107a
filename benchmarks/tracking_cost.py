"""What tracking costs: a training step with it and without, and a server's time for many points.

`python benchmarks/tracking_cost.py --out FOLDER`: (a) the steps of one run of the embedded world:
what its reporter takes beside the whole step; (b) 100 trials of 500 points
from their outboxes through a real MLflow server on the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow_server

TRIALS, POINTS = 100, 500


def step_cost(folder: Path) -> dict[str, float]:
    """Seconds that the reporter of a trial takes for a step, beside the step itself."""
    from sweeps.config.load import load_config
    from sweeps.config.search_space import Point
    from sweeps.config.sweep_config import resolve_paths
    from sweeps.execution.trial_worker import TrialReporter
    from sweeps.finetune.finetune_config import FinetuneConfig
    from sweeps.finetune.loop import finetune
    from sweeps.tracking.event_log import Outbox

    mini = Path(__file__).parents[1] / "sweeps" / "configs" / "mini.yaml"
    config = resolve_paths(load_config(mini))
    point: Point = {"mask_ratio": 0.5, "accumulation_interval": 1, "learning_rate": 1e-3}
    run = FinetuneConfig.model_validate(config.trial("math", point).model_dump())
    with Outbox(folder / "events.jsonl") as outbox:
        timed = _TimedReporter(TrialReporter(outbox, lambda check: True))
        finetune(run, folder / "run", timed)
    steps = [later - earlier for earlier, later in zip(timed.at, timed.at[1:], strict=False)]
    step, reporting = statistics.median(steps), statistics.median(timed.took)
    return {
        "step_ms": 1000 * step,
        "reporting_ms": 1000 * reporting,
        "share": sum(timed.took) / sum(steps),
        "median_share": reporting / step,
    }


class _TimedReporter:
    """A reporter whose own seconds are counted."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.at: list[float] = []
        self.took: list[float] = []

    def step(self, step: int, metrics: Any) -> None:
        started = time.perf_counter()
        self._inner.step(step, metrics)
        self.took.append(time.perf_counter() - started)
        self.at.append(started)

    def check(self, check: Any) -> bool:
        return bool(self._inner.check(check))


def through_the_server(folder: Path) -> dict[str, float]:
    """Seconds from the first event read to the last one stored, and what the server then has."""
    from mlflow import MlflowClient

    from sweeps.tracking.event_log import Outbox
    from sweeps.tracking.mlflow_tracker import MlflowTracker
    from sweeps.tracking.tracker import StudyInfo, TrialInfo
    from sweeps.tracking.tracker_pump import TrackerPump

    for number in range(TRIALS):
        with Outbox(folder / f"t{number}" / "events.jsonl") as outbox:
            for step in range(1, POINTS + 1):
                outbox.append("step", step=step, metrics={"train/loss": 1 / step})
    with mlflow_server.serving(folder) as uri:
        pump = TrackerPump(MlflowTracker(uri), print)
        started = time.perf_counter()
        pump.begin_study(StudyInfo("cost/math", "cost", "math", "", "none", "", {}))
        outcome = {"state": "finished", "score": 0.5, "seconds": 1.0, "metrics": {}, "failure": ""}
        for number in range(TRIALS):
            pump.begin(TrialInfo(f"t{number}", number, {}, 0), folder / f"t{number}")
            pump.end(f"t{number}", folder / f"t{number}", outcome)
        pump.finish_study("finished", [], {})
        sent = pump.close(timeout=600)
        seconds = time.perf_counter() - started
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("gmt/math")
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        stored = sum(len(client.get_metric_history(r.info.run_id, "train/loss")) for r in runs)
        return {"seconds": seconds, "all_sent": sent, "runs": len(runs), "points": stored}


def main() -> None:
    """Print and keep both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="tracking-") as place:
        found = {
            "step": step_cost(Path(place) / "step"),
            "server": through_the_server(Path(place) / "server"),
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tracking_cost.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
