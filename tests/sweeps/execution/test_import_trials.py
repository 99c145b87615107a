"""Trials of other studies inform a search, and are nothing else to it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner, Result

from sweeps.cli.app import app
from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import tuner
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.progress import LineDisplay
from sweeps.execution.study_session import DomainSession
from sweeps.execution.sweep import open_study, run_studies
from sweeps.execution.trial_batch import TrialBatch
from sweeps.search.attempt_records import finished_trials
from sweeps.search.requests import queue_request
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records, best_row, best_sft_row, own_rows
from sweeps.storage.run_lock import acquire_run_lock
from tests.sweeps.jobs import suggested
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, OOM, RUNNING, Groups, play

MAP = ("--map", "lr=learning_rate", "--map", "accum=accumulation_interval")


def objective(trial: optuna.Trial) -> float:
    """A script of someone's own: `study.optimize(objective, n_trials=12)`."""
    rate = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    trial.suggest_categorical("accum", [1, 2, 4])
    ratio = trial.suggest_float("mask_ratio", 0.0, 0.9, step=0.1)
    trial.suggest_float("dropout", 0.0, 0.1)
    if trial.number == 3:
        raise optuna.TrialPruned
    return 10 + ratio - rate  # better than any trial of the sweep


@pytest.fixture
def script(sweep_files: Path) -> optuna.Study:
    """The study of that script, in `tune.db`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="lr",
        storage="sqlite:///tune.db",
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    study.optimize(objective, n_trials=12)
    return study


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["import", *arguments])


def fits(trial: optuna.trial.FrozenTrial) -> bool:
    inside = trial.params["lr"] <= 1e-2 and trial.params["accum"] <= 2
    return trial.state is TrialState.COMPLETE and inside


def test_trials_of_a_plain_optuna_script(sweep_files: Path, script: optuna.Study) -> None:
    wanted = [trial.number for trial in script.trials if fits(trial)]
    assert 2 <= len(wanted) <= 8
    done = call("sweep.yaml", "tune.db", *MAP)
    assert done.exit_code == 0, done.output
    assert f"sums: {len(wanted)} of 12 trials of study lr imported; " in done.stdout
    assert "1 skipped: not complete" in done.stdout
    assert "skipped: learning_rate is outside 0.0001 to 0.01, logarithmic" in done.stdout
    assert "skipped: accumulation_interval is outside one of 1, 2" in done.stdout
    assert done.stdout.endswith("not in the space, ignored: dropout\n")
    records = Records(load_config("runs/small"))
    rows = records.rows("sums")
    assert [row.number for row in rows] == wanted
    assert {row.origin for row in rows} == {"study lr"}
    assert [row.score for row in rows] == [script.trials[n].value for n in wanted]
    assert [row.learning_rate for row in rows] == [script.trials[n].params["lr"] for n in wanted]
    assert {trial.state for trial in records.trials("sums")} == {TrialState.COMPLETE}
    # Neither chosen, nor a control, nor a trial of the search.
    assert best_row(rows) is None
    assert best_sft_row(rows) is None
    assert own_rows(rows) == ()
    work = workload(records.config, "sums", rows)
    assert (work.total, work.done) == (3, 0)
    again = call("sweep.yaml", "tune.db", "--study", "lr", *MAP)
    assert "sums: 0 of 12 trials of study lr imported; " in again.stdout
    assert f"; {len(wanted)} skipped: imported before" in again.stdout
    assert Records(load_config("runs/small")).rows("sums") == rows


def test_an_import_of_nothing_fails(sweep_files: Path, script: optuna.Study) -> None:
    outside = call("sweep.yaml", "tune.db", *MAP, "space.learning_rate=[1e-6, 2e-6]")
    assert outside.exit_code == 1
    assert "0 of 12 trials of study lr imported; " in outside.stdout
    assert "9 skipped: learning_rate is outside one of 1e-06, 2e-06" in outside.stdout
    assert outside.stderr == (
        "error: domain sums: no trial of tune.db was imported; each was skipped, as said above\n"
    )


def test_bits_per_byte_are_minimized(sweep_files: Path, script: optuna.Study) -> None:
    minimal = optuna.create_study(
        study_name="loss",
        storage="sqlite:///tune.db",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    minimal.optimize(objective, n_trials=12)
    bits = "domains.sums.benchmarks.0.metric=bits_per_byte"
    refused = call("sweep.yaml", "tune.db", bits, "--study", "lr", *MAP)
    assert refused.exit_code == 2
    assert "its direction is maximize, but that of domain 'sums' is min" in refused.stderr
    done = call("sweep.yaml", "tune.db", bits, "--study", "loss", *MAP)
    assert done.exit_code == 0, done.output
    rows = Records(load_config("runs/small")).rows("sums")
    assert len(rows) == sum(map(fits, minimal.trials)) > 0
    for row in rows:
        assert row.score == -(minimal.trials[row.number].value or 0.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sweep.yaml", "tune.db", "--map", "lr=lerning_rate"], "did you mean 'learning_rate'?"),
        (["sweep.yaml", "tune.db", "--map", "rl=learning_rate"], "study lr has no rl"),
        (["sweep.yaml", "tune.db", "--map", "lr"], "--map lr: expected NAME=KEY"),
        (["sweep.yaml", "tune.db", "--study", "rl"], "--study rl: did you mean 'lr'?"),
        (["sweep.yaml", "sqlite:///nowhere.db"], "nowhere.db: no such file"),
        (["sweep.yaml", "runs/nowhere"], "runs/nowhere: no such file or folder; expected another"),
        (["sweep.yaml", "tunes.db"], "an Optuna database; did you mean 'tune.db'?"),
        (
            ["sweep.yaml", "tune.db"],
            "study lr: none of its trials has accumulation_interval, learning_rate; expected "
            "--map NAME=KEY for a parameter with another name; there are: accum, dropout, lr, ",
        ),
        (["sweep.yaml", "tune.db", *MAP, *MAP[:2]], "--map: lr is given 2 times; expected once"),
        (
            ["sweep.yaml", "tune.db", *MAP, "--map", "dropout=learning_rate"],
            "--map: learning_rate is given 2 times; expected once",
        ),
        (["sweep.yaml", "sweep.yaml"], "this is the same sweep"),
        (["sweep.yaml", "sweep.yaml", "--study", "lr"], "--study and --map require an Optuna"),
        (["sweep.yaml", "tune.db", "--domain", "sum"], "--domain sum: did you mean 'sums'?"),
        (["sweep.yaml", "tune.db", "search.constraints=[score >= 0]"], "no constraints"),
        (["sweep.yaml", "tune.db", "search.objectives=[score, seconds]"], "only objective"),
    ],
)
def test_mistakes_are_refused(
    sweep_files: Path, script: optuna.Study, arguments: list[str], says: str
) -> None:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("runs/small/optuna.db").exists()


def test_a_file_that_is_no_optuna_database(sweep_files: Path) -> None:
    import sqlite3

    with sqlite3.connect("other.db") as connection:
        connection.execute("create table t (x)")
    result = call("sweep.yaml", "other.db")
    assert result.exit_code == 2
    assert "no Optuna database can be read there" in result.stderr


def test_not_while_the_sweep_runs(sweep_files: Path, script: optuna.Study) -> None:
    config = play(FINISHED)
    with acquire_run_lock(paths_for(config).folder) as driver:
        result = call("runs/small", "tune.db", *MAP)
    assert result.exit_code == 2
    assert f"this sweep is already running ({driver})" in result.stderr
    assert len(Records(config).rows("sums")) == 1


def test_trials_of_another_sweep(sweep_files: Path) -> None:
    rows = Records(play({**FINISHED, "score": 0.75}, OOM, RUNNING, FINISHED)).rows("sums")
    done = call("sweep.yaml", "runs/small", "name=other", "search.trials=9")
    assert done.exit_code == 0, done.output
    assert "sums: 2 of 4 trials of sweep small imported; 2 skipped: not finished" in done.stdout
    found = Records(load_config("runs/other")).rows("sums")
    assert [(row.number, row.score) for row in found] == [(0, 0.75), (3, 0.5)]
    assert [row.point() for row in found] == [rows[0].point(), rows[3].point()]
    again = call("sweep.yaml", "runs/small", "name=other", "search.trials=9")
    assert "sums: 0 of 4 trials of sweep small imported" in again.stdout
    other = call("sweep.yaml", "runs/small", "name=third", "seed=1", "training.examples=32")
    assert other.exit_code == 2
    assert "seed: was 0, now 1; training.examples: was 64, now 32" in other.stderr


def driven(config: SweepConfig) -> DomainResult:
    groups: Any = Groups()
    with acquire_run_lock(paths_for(config).folder) as driver:
        said = LineDisplay(io.StringIO())
        return run_studies(config, said, MemoryTracker(), groups, driver).domains["sums"]


def test_a_search_learns_from_imported_trials_and_selects_its_own(
    sweep_files: Path, script: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []

    def run_tuner(config: SweepConfig, batches: list[TrialBatch], *given: object) -> None:
        (batch,) = batches
        for number in range(batch.trials):
            suggested(batch.search, str(number))
            batch.search.on_trial_complete(str(number), FINISHED)
        study = open_study(config, "sums")
        known.append(len(study.get_trials(states=(TrialState.COMPLETE,))))

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    monkeypatch.setattr(DomainSession, "_chosen", lambda *given: {})  # it has no model to score
    config = resolve_paths(load_config("sweep.yaml"))
    call("sweep.yaml", "tune.db", *MAP)
    imported = len(Records(config).rows("sums"))
    result = driven(config)
    assert known == [imported + 3]
    own = [row for row in result.rows if not row.origin]
    assert [row.number for row in own] == [0, 1, 2]
    assert result.best == own[0]
    assert len(finished_trials(open_study(config, "sums"))) == 3
    page = result.report.html.read_text()
    assert "Trials of an earlier space or another study" in page
    assert "study lr" in page
    # A space that changes keeps those that fit it.
    changed = resolve_paths(load_config("sweep.yaml", ["space.accumulation_interval=1"]))
    rows = Records(config).rows("sums")
    after = driven(changed)
    there = {row.number for row in after.rows if row.origin == "study lr"}
    assert there == {row.number for row in rows if row.origin}


def test_an_imported_point_may_be_trained_here(sweep_files: Path) -> None:
    first, _ = Records(play(FINISHED, FINISHED)).rows("sums")
    rate, ratios = first.learning_rate, f"[{first.mask_ratio}, 0.95]"
    grid = ["search.sampler=grid", f"space.learning_rate={rate}", f"space.mask_ratio={ratios}"]
    found = load_config("sweep.yaml", ["name=other", *grid])
    done = call("sweep.yaml", "runs/small", "name=other", *grid)
    assert done.exit_code == 0, done.output
    assert "1 of 2 trials" in done.stdout
    assert workload(found, "sums", Records(found).rows("sums")).left == 4
    searched = load_config("sweep.yaml", ["name=third", "search.sampler=random"])
    assert call("sweep.yaml", "runs/small", "name=third", "search.sampler=random").exit_code == 0
    imported, trials = Records(searched).rows("sums")[0], Records(searched).trials("sums")
    names = searched.space_of("sums").parameters()
    asked = {name: value for name, value in imported.point().items() if name in names}
    assert queue_request(searched, "sums", trials, asked).point.keys() == asked.keys()
