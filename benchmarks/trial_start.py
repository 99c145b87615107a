"""What a trial costs before its first step, and a sweep beside the same points in a bare process.

`python benchmarks/trial_start.py all --out FOLDER` runs 20 points of the embedded world's math
domain four times, one after another, each time in fresh processes: `documented` (one TorchTrainer
per trial inside a Tune function, Ray's defaults), `isolated` and `warm` (ours), and `bare` (a loop
in one process). Times are wall seconds; a first step counts when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
MODES = ("bare", "warm", "isolated", "documented")
TRIALS = 20
WATCH_SECONDS = 5.0
"""Between two looks at the memory: each reads the page tables of some twenty processes, which a
sweep of many processes feels and one process does not."""


def main() -> None:
    """`all` starts `one` for each mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("all", "one"))
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES))
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "one":
        one(arguments.mode, arguments.trials, arguments.folder)
        return
    measured = {}
    for mode in arguments.modes:
        measured[mode] = in_fresh_process(mode, arguments.trials)
        print(mode, json.dumps(measured[mode]), flush=True)
    bare = measured.get("bare", {}).get("total")
    for result in measured.values():
        result["total_over_bare"] = None if bare is None else round(result["total"] / bare, 3)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "trial_start.json").write_text(json.dumps(measured, indent=1))


def in_fresh_process(mode: str, trials: int) -> dict[str, Any]:
    """Total seconds of a process, and of each trial from its suggestion to its first step."""
    with TemporaryDirectory(prefix="start-") as place:
        command = [sys.executable, __file__, "one", "--mode", mode]
        command += ["--trials", str(trials), "--folder", place]
        peaks: dict[str, float] = {}
        started = time.perf_counter()
        with (Path(place) / "log.txt").open("w") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            while True:
                try:
                    process.wait(WATCH_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    watch_memory(process.pid, peaks)
        total = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError((Path(place) / "log.txt").read_text()[-3000:])
        starts = [
            first_step(Path(each["folder"])) - each["suggested"]
            for each in json.loads((Path(place) / "suggested.json").read_text())
        ]
    return {
        "total": round(total, 2),
        "starts": [round(start, 3) for start in starts],
        "first_start": round(starts[0], 3),
        "median_start": round(statistics.median(starts[1:]), 3),
        "peak_mib": {name: round(peak) for name, peak in sorted(peaks.items())},
    }


def watch_memory(pid: int, peaks: dict[str, float]) -> None:
    """Keep the highest sum of private memory, in MiB, of each kind of process below ``pid``."""
    import psutil

    now: dict[str, float] = {}
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return
    for process in family:
        try:
            name, memory = process.cmdline()[0].split("/")[-1], process.memory_full_info().uss
        except (psutil.Error, IndexError):
            continue
        kind = "driver" if process.pid == pid else name.split(":")[-1].split(".")[0]
        now[kind] = now.get(kind, 0.0) + memory / 2**20
    for kind, amount in now.items():
        peaks[kind] = max(peaks.get(kind, 0.0), amount)


def first_step(folder: Path) -> float:
    """When a trial's first update was done (Unix seconds)."""
    with (folder / "events.jsonl").open() as events:
        return float(json.loads(next(events))["time"])


def one(mode: str, trials: int, folder: Path) -> None:
    """Run the points in one of the ways; write when each was suggested."""
    modes = {"bare": bare, "documented": documented}
    suggested = modes[mode](trials, folder) if mode in modes else ours(mode, trials, folder)
    (folder / "suggested.json").write_text(json.dumps(suggested))


def sweep(folder: Path, trials: int, group: str) -> Any:
    """The demo's math domain, its points drawn at random, nothing stopped early."""
    from sweeps.config.load import load_tree, parse_config

    tree = load_tree(ROOT / "sweeps" / "configs" / "mini.yaml")
    tree["domains"] = {"math": tree["domains"]["math"]}
    tree["storage"] = str(folder)
    tree["resources"] |= {"concurrency": 1, "trial_group": group}
    tree["search"] = {"trials": trials, "sampler": "random"}
    return parse_config(tree)


def ours(mode: str, trials: int, folder: Path) -> list[dict[str, Any]]:
    """`python -m sweeps run`, with its report."""
    import optuna

    from sweeps.execution.sweep import paths_for, run

    config = sweep(folder, trials, mode)
    run(config)
    storage = optuna.storages.RDBStorage(paths_for(config).optuna_url())
    study = optuna.load_study(study_name="mini/math", storage=storage)
    return [
        {
            "suggested": trial.datetime_start.timestamp() if trial.datetime_start else None,
            "folder": str(paths_for(config).trial("math", trial.user_attrs["key"])),
        }
        for trial in study.trials
    ]


def points(trials: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """The same points without Ray: the run of each as JSON, and its folder."""
    import optuna

    from sweeps.config.sweep_config import resolve_paths
    from sweeps.search.samplers import DistinctSampler

    config = resolve_paths(sweep(folder, trials, "warm"))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study, space = optuna.create_study(), config.space_of("math")
    study.sampler = DistinctSampler(study, space, config.search, config.seed)
    for number in range(trials):
        run = config.trial("math", space.suggest(study.ask()))
        yield run.model_dump_json(), folder / f"trial-{number:03d}"


def train(run: str, folder: Path, cache: Any = None) -> Any:
    """One run in this process, its steps written as those of a trial are."""
    from sweeps.execution.trial_worker import TrialReporter
    from sweeps.finetune.finetune_config import FinetuneConfig
    from sweeps.finetune.loop import finetune
    from sweeps.storage.trial_files import EVENTS_FILE
    from sweeps.tracking.event_log import Outbox

    folder.mkdir(parents=True, exist_ok=True)
    with Outbox(folder / EVENTS_FILE) as outbox:
        reporter = TrialReporter(outbox, lambda check: True)
        return finetune(FinetuneConfig.model_validate_json(run), folder, reporter, cache)


def bare(trials: int, folder: Path) -> list[dict[str, Any]]:
    """Back to back in one process, with weights and data kept between runs."""
    from sweeps.finetune.loop import Cache

    cache, suggested = Cache(), []
    for run, place in points(trials, folder):
        suggested.append({"suggested": time.time(), "folder": str(place)})
        train(run, place, cache)
    return suggested


def documented(trials: int, folder: Path) -> list[dict[str, Any]]:
    """As Ray's guide to Train with Tune has it: a Tune function that fits a TorchTrainer."""
    import ray
    import ray.train
    import ray.tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback
    from ray.tune.search import Searcher

    jobs, suggested = list(points(trials, folder)), list[dict[str, Any]]()

    class Points(Searcher):
        """One point after another."""

        def suggest(self, trial_id: str) -> Any:
            run, place = jobs[len(suggested)]
            suggested.append({"suggested": time.time(), "folder": str(place)})
            return {"run": run, "place": str(place)}

        def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
            """Nothing to learn."""

        def save(self, checkpoint_path: str) -> None:
            """Nothing to keep."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing was kept."""

    def worker(config: dict[str, Any]) -> None:
        result = train(config["run"], Path(config["place"]))
        ray.train.report({"score": result.score})

    def driver(config: dict[str, Any]) -> None:
        name = Path(config["place"]).name
        callbacks = [TuneReportCallback()]
        TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=name, storage_path=str(folder / "train"), callbacks=callbacks
            ),
        ).fit()

    ray.init(num_cpus=2, log_to_driver=False)
    limited = ray.tune.TuneConfig(
        search_alg=Points(metric="score", mode="max"),
        metric="score",
        mode="max",
        num_samples=trials,
        max_concurrent_trials=1,
    )
    ray.tune.Tuner(
        ray.tune.with_resources(driver, {"CPU": 0.01}),
        tune_config=limited,
        run_config=ray.tune.RunConfig(name="tune", storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    ray.shutdown()
    return suggested


if __name__ == "__main__":
    main()
