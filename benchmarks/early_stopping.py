"""Early stopping on the mini world: the steps it saves, and what the best score pays for them.

    python benchmarks/early_stopping.py record --folder FOLDER      # every trial to its end
    python benchmarks/early_stopping.py replay --folder FOLDER      # the pruner over those curves
    python benchmarks/early_stopping.py confirm --folder FOLDER     # one of them as a real sweep
    python benchmarks/early_stopping.py search --folder FOLDER      # the demo's own: TPE, live

``record`` runs each seed's random points one after another in this process, without Ray, and keeps
the score at every check. Random points do not depend on scores, so a search with early stopping
would have tried the very same ones: ``replay`` hands the recorded scores to the searcher and the
pruner that a study uses, in the order in which two trials side by side would have sent them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import optuna
from scipy.stats import spearmanr

from sweeps.config.load import load_config
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.study_search import StudySearch
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.loop import Cache, finetune
from sweeps.finetune.reporter import Check
from sweeps.search.pruners import build_pruner
from sweeps.search.samplers import DistinctSampler

CONFIG = Path(__file__).resolve().parent.parent / "sweeps" / "configs" / "mini.yaml"
DOMAIN, CHECKS, POINTS, SEEDS, CONCURRENCY = "math", 8, 24, 5, 2
ITEMS = 128
"""Validation items behind a final score: its standard error over items."""

CURVES = "curves.json"
# The first is the setting that the bar is about, the default, chosen before any replay.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"name": "asha", "grace_checks": 1, "reduction_factor": 3},
    {"name": "asha", "grace_checks": 1, "reduction_factor": 2},
    {"name": "asha", "grace_checks": 2, "reduction_factor": 2},
    {"name": "asha", "grace_checks": 2, "reduction_factor": 3},
    {"name": "asha", "grace_checks": 3, "reduction_factor": 2},
    {"name": "asha", "grace_checks": 4, "reduction_factor": 2},  # the demo's: one rung, half-way
    {"name": "hyperband", "grace_checks": 1, "reduction_factor": 3},
    {"name": "median", "grace_checks": 2},
    {"name": "median", "grace_checks": 4},
)
# Declared before the first search of them: the default of ASHA, and what took half of the steps.
SEARCHED: tuple[dict[str, Any], ...] = ({"name": "none"}, SETTINGS[0], SETTINGS[2])
Trial = dict[str, Any]


class Recorder:
    """Keeps each check; stops nothing."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def step(self, step: int, metrics: Any) -> None:
        """Nothing: the scores are enough."""

    def check(self, check: Check) -> bool:
        """Keep it once."""
        if not self.checks or self.checks[-1].step != check.step:
            self.checks.append(check)
        return True


def sweep(
    seed: int, scheduler: dict[str, Any] | None = None, items: int | None = None
) -> SweepConfig:
    """The demo's sweep with more checks: its space and budget are not touched. ``items``: how many
    are scored at the checks before the last; None for as many as the demo's."""
    changes = [f"search.scheduler.{key}={value}" for key, value in (scheduler or {}).items()]
    changes += [] if items is None else [f"evaluation.check_limit={items}"]
    config = load_config(CONFIG, [f"evaluation.checks={CHECKS}", f"seed={seed}", *changes])
    return resolve_paths(config)


def points(config: SweepConfig) -> list[Point]:
    """The random points of a seed."""
    sampler = optuna.samplers.RandomSampler(seed=config.seed)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    return [config.space_of(DOMAIN).suggest(study.ask()) for _ in range(POINTS)]


def record(folder: Path, items: int | None) -> None:
    """Run what is missing of every seed; each trial is written as it ends."""
    path, cache = folder / CURVES, Cache()
    trials = json.loads(path.read_text()) if path.exists() else []
    known = {(trial["seed"], trial["number"]) for trial in trials}
    for seed in range(SEEDS):
        config = sweep(seed, items=items)
        for number, point in enumerate(points(config)):
            if (seed, number) in known:
                continue
            trials.append({"seed": seed, "number": number, "point": point})
            trials[-1] |= run(config, point, cache)
            path.write_text("[\n" + ",\n".join(map(json.dumps, trials)) + "\n]\n")
            print(seed, number, point, trials[-1]["scores"], flush=True)


def run(config: SweepConfig, point: Point, cache: Cache) -> dict[str, Any]:
    """One trial to its end: its updates and scores at each check."""
    recorder, started = Recorder(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(config.trial(DOMAIN, point), Path(folder), recorder, cache)
    return {
        "state": result.state,
        "updates": [check.step for check in recorder.checks],
        "scores": [check.score for check in recorder.checks],
        "seconds": time.perf_counter() - started,
    }


@dataclass(frozen=True)
class Search:
    """A replayed search: examples trained on as a share of the full search's, the best final
    score among the trials that finished, and how many finished."""

    share: float
    best: float
    finished: int


def job_of(number: int, point: Point, run: FinetuneConfig) -> TrialJob:
    """A trial that no worker group runs, so that it needs no folder."""
    return TrialJob(str(number), "", number, point, "gmt", run)


def replay_one(config: SweepConfig, trials: list[Trial]) -> Search:
    """Two trials side by side, a check of either at a time: all checks take equally long."""
    # Hyperband draws a trial's bracket from the study's name.
    study = optuna.create_study(study_name=f"seed {config.seed}", direction="maximize")
    study.pruner = build_pruner(config.search, CHECKS)
    for trial in trials:
        study.enqueue_trial(trial["point"])
    run = config.trial(DOMAIN, trials[0]["point"])  # only recorded
    search = StudySearch(
        study, config.space_of(DOMAIN), lambda n, point: job_of(n, point, run), checks=CHECKS
    )
    waiting, running, checks = deque(enumerate(trials)), deque[tuple[int, int]](), 0
    while waiting or running:
        while waiting and len(running) < CONCURRENCY:
            number, _ = waiting.popleft()
            search.suggest(str(number))
            running.append((number, 0))
        number, check = running.popleft()
        checks += 1
        if not tell(search, number, check, trials[number]):
            running.append((number, check + 1))
    best = [t.value for t in study.trials if t.state.name == "COMPLETE" and t.value is not None]
    return Search(checks / (CHECKS * len(trials)), max(best), len(best))


def tell(search: StudySearch, number: int, check: int, trial: Trial) -> bool:
    """Hand one recorded check to the searcher; whether the trial is over."""
    updates = trial["updates"]
    result: dict[str, Any] = {"steps": updates[-1]}
    if check >= len(trial["scores"]):  # it diverged before this check
        search.on_trial_complete(str(number), {"state": "diverged"})
        return True
    result |= {"score": trial["scores"][check], "step": updates[check]}
    if check == CHECKS - 1:
        search.on_trial_complete(str(number), {**result, "state": "finished"})
        return True
    if search.is_unpromising(str(number), result):
        search.on_trial_complete(str(number), result)
        return True
    return False


def replay(folder: Path, items: int | None) -> None:
    """Every setting over every seed whose trials are all recorded; prints and writes a table."""
    trials = json.loads((folder / CURVES).read_text())
    seeds = [s for s in range(SEEDS) if sum(t["seed"] == s for t in trials) == POINTS]
    found = []
    for setting in SETTINGS:
        name = ", ".join(str(value) for value in setting.values())
        for seed in seeds:
            mine = [trial for trial in trials if trial["seed"] == seed]
            full = max(t["scores"][-1] for t in mine if t["state"] == "finished")
            one = replay_one(sweep(seed, setting, items), mine)
            error = math.sqrt(full * (1 - full) / ITEMS)
            found.append({"setting": name, "seed": seed, "full_best": full, "error": error})
            found[-1] |= asdict(one)
    for name in dict.fromkeys(row["setting"] for row in found):
        rows = [row for row in found if row["setting"] == name]
        print(f"| {name} | {line(rows)} |")
    for seed in seeds:
        mine = [trial for trial in trials if trial["seed"] == seed]
        text = " | ".join(f"{value:.2f}" for value in correlations(mine))
        print(f"| seed {seed} | {text} |")
    (folder / "replays.json").write_text(json.dumps(found, indent=1) + "\n")


class Judged:
    """Asks a study's searcher at every check whether to go on."""

    def __init__(self, search: StudySearch, trial: str) -> None:
        self.search, self.trial = search, trial

    def step(self, step: int, metrics: Any) -> None:
        """Nothing: the scores are enough."""

    def check(self, check: Check) -> bool:
        """Go on, unless the pruner sees no hope; the last check ends the trial anyway."""
        told = {"score": check.score, "step": check.step, "steps": check.steps}
        return check.done or not self.search.is_unpromising(self.trial, told)


def search_one(config: SweepConfig, cache: Cache) -> Search:
    """A search by the demo's sampler and from its starting points, one trial after another."""
    study = optuna.create_study(
        study_name=f"seed {config.seed}",
        direction="maximize",
        pruner=build_pruner(config.search, CHECKS),
    )
    space = config.space_of(DOMAIN)
    study.sampler = DistinctSampler(study, space, config.search, config.seed)
    search = StudySearch(
        study,
        space,
        lambda n, point: job_of(n, point, config.trial(DOMAIN, point)),
        checks=CHECKS,
        starts=len(config.search.start),
    )
    shares = []
    for number in range(POINTS):
        suggestion: Any = search.suggest(str(number))
        judge, run = Judged(search, str(number)), suggestion["job"].run
        with tempfile.TemporaryDirectory() as folder:
            result = finetune(run, Path(folder), judge, cache)
        shares.append(result.step / result.steps)
        told = asdict(result)
        if result.state == "stopped":
            del told["state"]  # as Tune has it: the last check, and no ending of its own
        search.on_trial_complete(str(number), told)
    best = [t.value for t in study.trials if t.state.name == "COMPLETE" and t.value is not None]
    return Search(mean(shares), max(best), len(best))


def search(folder: Path, items: int | None) -> None:
    """The search as it is, and with each setting that saved half of the steps in the replay."""
    path, cache = folder / "searches.json", Cache()
    found = json.loads(path.read_text()) if path.exists() else []
    known = {(row["setting"], row["seed"]) for row in found}
    for setting in SEARCHED:
        name = ", ".join(str(value) for value in setting.values())
        for seed in range(SEEDS):
            if (name, seed) in known:
                continue
            one = search_one(sweep(seed, setting, items), cache)
            found.append({"setting": name, "seed": seed, **asdict(one)})
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(name, seed, one, flush=True)
    full = {row["seed"]: row["best"] for row in found if row["setting"] == "none"}
    pooled = mean(full.values())
    for row in found:
        error = math.sqrt(pooled * (1 - pooled) / ITEMS)
        row |= {"full_best": full[row["seed"]], "error": error}
    for name in dict.fromkeys(row["setting"] for row in found):
        print(f"| {name} | {line([row for row in found if row['setting'] == name])} |")


def correlations(trials: list[Trial]) -> list[float]:
    """Spearman's rank correlation of the scores at each check with the final ones."""
    finished = [trial["scores"] for trial in trials if trial["state"] == "finished"]
    final = [scores[-1] for scores in finished]
    at_checks = [[scores[check] for scores in finished] for check in range(CHECKS - 1)]
    return [float(spearmanr(scores, final).statistic) for scores in at_checks]


def line(rows: list[dict[str, Any]]) -> str:
    """Means over seeds: share of the steps, best scores, their difference and standard errors."""
    lost = [row["full_best"] - row["best"] for row in rows]
    within = sum(row["full_best"] - row["best"] <= row["error"] for row in rows)
    over_seeds = stdev(lost) / math.sqrt(len(lost)) if len(lost) > 1 else math.nan
    return " | ".join(
        [
            f"{mean(row['share'] for row in rows):.2f}",
            f"{max(row['share'] for row in rows):.2f}",
            f"{mean(row['full_best'] for row in rows):.4f}",
            f"{mean(row['best'] for row in rows):.4f}",
            f"{mean(lost):.4f} ± {over_seeds:.4f}",
            f"{mean(row['error'] for row in rows):.4f}",
            f"{within} of {len(rows)}",
        ]
    )


def confirm(folder: Path, items: int | None) -> None:
    """The first setting on seed 0's points by a real sweep, two trials side by side on Ray."""
    from sweeps.execution.sweep import run as run_sweep
    from sweeps.tracking.tracker import MemoryTracker

    config = sweep(0, SETTINGS[0], items)
    start = points(config)
    search = config.search.model_copy(update={"trials": POINTS, "start": tuple(start)})
    storage = str((folder / "sweep").resolve())
    parts = {DOMAIN: config.domains[DOMAIN]}
    changes = {"search": search, "storage": storage, "domains": parts}
    rows = run_sweep(config.model_copy(update=changes), tracker=MemoryTracker()).domains[DOMAIN]
    share = mean(row.step / row.steps for row in rows.rows)
    best = rows.best.score if rows.best is not None else None
    states = Counter(row.state for row in rows.rows)
    print(f"on Ray, seed 0: {share:.2f} of the steps, best {best}, {dict(states)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["record", "replay", "confirm", "search"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--items", type=int, help="scored at the checks before the last")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    commands = {"record": record, "replay": replay, "confirm": confirm, "search": search}
    commands[given.command](given.folder, given.items)
