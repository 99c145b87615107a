"""A search that goes on in another space: nothing is run twice, nothing is lost."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.config.load import load_config, parse_config
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths
from sweeps.execution import tuner
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.progress import LineDisplay
from sweeps.execution.sweep import open_study, run_studies
from sweeps.execution.trial_batch import TrialBatch
from sweeps.search.attempt_records import EARLIER, finished_trials
from sweeps.search.changed_space import carry_over, point_in, preview
from sweeps.search.optuna_storage import open_storage
from sweeps.search.pending_trials import SearchSpace, queue_missing
from sweeps.search.trial_counts import workload
from sweeps.search.trial_records import Records, trial_rows
from sweeps.storage.run_lock import acquire_run_lock
from tests.sweeps.jobs import suggested
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, OOM, RUNNING, Groups, play

Tree = dict[str, Any]
WIDE = {
    "mask_ratio": [0.0, 0.3, 0.6, 0.9],
    "accumulation_interval": [1, 2],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
NARROW = {**WIDE, "mask_ratio": [0.0, 0.3, 0.45, 0.6], "weight_decay": [0.0, 0.1]}


def score(point: Tree) -> float:
    return 0.5 + float(point["mask_ratio"]) / 10 - 20 * abs(float(point["learning_rate"]) - 2e-3)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Tree]:
    """The points that a sweep trains, each in an instant."""
    found: list[Tree] = []

    def run_tuner(config: SweepConfig, batches: list[TrialBatch], *given: object) -> None:
        (batch,) = batches
        for number in range(batch.trials):
            job = suggested(batch.search, str(number))
            found.append(dict(job.point))
            model = Path(job.folder) / "model"
            model.mkdir(parents=True)
            (model / "config.json").write_text("{}")
            batch.search.on_trial_complete(str(number), {**FINISHED, "score": score(job.point)})

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    return found


def driven(tree: Tree, search: Tree, space: Tree) -> tuple[DomainResult, str]:
    changes = {"search": {**tree["search"], **search}, "space": space}
    config, said = resolve_paths(parse_config(tree | changes)), io.StringIO()
    groups: Any = Groups()
    with acquire_run_lock(paths_for(config).folder) as driver:
        result = run_studies(config, LineDisplay(said), MemoryTracker(), groups, driver)
    return result.domains["sums"], said.getvalue()


def identity(point: Tree) -> str:
    return json.dumps({"weight_decay": 0.0, **point}, sort_keys=True)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_space_that_changes_after_half_the_trials(
    sweep_files: Path, tree: Tree, started: list[Tree], sampler: str
) -> None:
    before, _ = driven(tree, {"trials": 6, "sampler": sampler}, WIDE)
    first = list(started)
    outside = {row.number for row in before.rows if row.mask_ratio == 0.9}
    after, said = driven(tree, {"trials": 12, "sampler": sampler}, NARROW)
    assert len(started) == 12 + len(outside)  # those outside do not count
    assert len({identity(point) for point in started}) == len(started)  # none twice
    assert [*map(identity, started[:6])] == [*map(identity, first)]
    rows = {row.number: row for row in after.rows}
    assert sorted(rows) == [*range(12 + len(outside))]
    for row in before.rows:  # on record with number, folder, score and time
        now = rows[row.number]
        assert (now.key, now.score, now.seconds, now.point()["mask_ratio"]) == (
            row.key,
            row.score,
            row.seconds,
            row.mask_ratio,
        )
        assert now.origin == ("an earlier space" if row.number in outside else "")
    assert after.best == max(
        (row for row in after.rows if not row.origin), key=lambda row: row.score or 0.0
    )
    assert f"{6 - len(outside)} ended trials fit and count" in said
    assert "space.mask_ratio.choices: was [0.0, 0.3, 0.6, 0.9], now [0.0, 0.3, 0.45, 0.6]" in said
    page = after.report.html.read_text()
    assert ("Trials of an earlier space" in page) == bool(outside)
    same, again = driven(tree, {"trials": 12, "sampler": sampler}, NARROW)
    assert "the space changed (" not in again  # taken over once
    assert same.rows == after.rows


def test_the_best_trial_remains_the_best_and_its_model_is_kept(
    sweep_files: Path, tree: Tree, started: list[Tree]
) -> None:
    start = [{"mask_ratio": 0.9, "accumulation_interval": 1, "learning_rate": 2e-3}]
    search = {"trials": 3, "sampler": "random", "start": start}
    before, _ = driven(tree, search, WIDE)
    assert before.best is not None
    assert before.best.number == 0
    wider = {**WIDE, "accumulation_interval": [1, 2, 4]}
    after, _ = driven(tree, {**search, "trials": 4}, wider)
    assert after.best == before.best
    narrow, said = driven(tree, {"trials": 4, "sampler": "random"}, NARROW)
    assert narrow.best is not None
    assert narrow.best.number != 0
    assert "trial 0: mask_ratio is outside one of 0, 0.3, 0.45, 0.6 (0.9)" in said
    model = Path("runs/small/sums/trials") / before.best.key / "model"
    assert model.is_dir()  # the space may change back
    back, _ = driven(tree, {**search, "trials": 4}, wider)
    assert back.best == before.best


def test_a_trial_whose_weights_went_is_not_scored_on_test_items(
    sweep_files: Path, tree: Tree, started: list[Tree]
) -> None:
    rates = [1e-3, 2e-3, 3e-3, 4e-3]
    space = {**WIDE, "mask_ratio": 0.3, "accumulation_interval": 1, "learning_rate": rates}
    before, _ = driven(tree, {"trials": 4, "sampler": "grid"}, space)
    assert before.best is not None
    assert before.best.learning_rate == 2e-3
    after, said = driven(tree, {"sampler": "grid"}, {**space, "learning_rate": [1e-3, 4e-3]})
    assert len(started) == 4
    assert after.best is not None
    assert after.best.learning_rate == 1e-3
    assert f"trial {after.best.number} is not scored on test items" in said
    assert after.test_scores.keys == {}


def test_plan_says_it_before_and_changes_nothing(sweep_files: Path) -> None:
    config = play(FINISHED, {**FINISHED, "score": 0.25}, OOM, RUNNING)
    rates = [row.learning_rate for row in Records(config).rows("sums")]
    low = sorted(rates)[1] * 0.99  # one trial is outside
    planned = CliRunner().invoke(
        app, ["plan", "sweep.yaml", f"space.learning_rate.low={low}", "search.trials=9"]
    )
    assert planned.exit_code == 0, planned.output
    assert "the space changed (space.learning_rate.low: was 0.0001, now" in planned.stdout
    left = f"on record only: trial {rates.index(min(rates))}: learning_rate is outside"
    assert left in planned.stdout
    trials = Records(config).trials("sums")
    assert not any(EARLIER in trial.user_attrs for trial in trials)


def test_a_killed_change_over_is_done_again(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = play(FINISHED, OOM, RUNNING, FINISHED)
    other = resolve_paths(load_config("sweep.yaml", ["space.accumulation_interval=[2, 4]"]))
    recorded = Records(config).rows("sums")

    class Killed(Exception):
        pass

    def once(study: optuna.Study, trial: optuna.trial.FrozenTrial, after: int = 2) -> None:
        if len(study.get_trials()) == after:
            raise Killed
        add(study, trial)

    add = optuna.Study.add_trial
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(optuna.Study, "add_trial", once)
        open_study(other, "sums")
    there = Records(config).rows("sums")
    assert [(row.key, row.score) for row in there] == [(row.key, row.score) for row in recorded]
    study = open_study(other, "sums")
    numbers = [trial.user_attrs["number"] for trial in study.get_trials()]
    assert numbers == [0, 1, 2, 3]
    assert trial_rows(open_study(other, "sums"), 0) == trial_rows(study, 0)
    names = optuna.get_all_study_names(open_storage(paths_for(other)))
    assert sorted(names) == ["small/sums", "small/sums@2"]


def test_what_was_interrupted_goes_on_where_it_fits(sweep_files: Path) -> None:
    config = play(RUNNING, RUNNING, RUNNING)
    (first, *_) = Records(config).rows("sums")
    only = f"space.accumulation_interval={first.accumulation_interval}"
    other = resolve_paths(load_config("sweep.yaml", [only]))
    study = open_study(other, "sums")
    fits = [row for row in trial_rows(study, 0) if not row.origin]
    assert {row.accumulation_interval for row in fits} == {first.accumulation_interval}
    assert len(trial_rows(study, 0)) == 3
    work = workload(other, "sums", trial_rows(study, 0))
    assert (work.total, work.done) == (3, 0)
    assert queue_missing(study, other, "sums") == 3


def test_constraints_that_change_are_measured_on_recorded_trials(sweep_files: Path) -> None:
    play(*({**FINISHED, "metrics": {"cost/train_seconds": n}} for n in (1.0, 3.0)), FINISHED)
    bounded = resolve_paths(load_config("sweep.yaml", ["search.constraints=[seconds <= 2]"]))
    rows = trial_rows(open_study(bounded, "sums"), 0)
    # The third did not measure its time.
    assert [row.violated for row in rows] == [(), ("seconds <= 2",), ()]
    assert [row.origin for row in rows] == ["", "", "an earlier space"]
    free = resolve_paths(load_config("sweep.yaml"))
    rows = trial_rows(open_study(free, "sums"), 0)
    assert [(row.violated, row.origin) for row in rows] == [((), "")] * 3


CASES: list[tuple[Tree, Tree, Tree | str]] = [
    ({"mask_ratio": 0.3}, {}, {"mask_ratio": 0.3}),
    ({"mask_ratio": 0.1 + 0.2}, {}, {"mask_ratio": 0.3}),
    ({"mask_ratio": 0.9}, {"mask_ratio": [0.0]}, "mask_ratio is outside one of 0 (0.9)"),
    # A key that the old space did not have counts at its value in the configuration.
    ({"mask_ratio": 0.3}, {"weight_decay": [0.0, 0.1]}, {"mask_ratio": 0.3, "weight_decay": 0.0}),
    ({"mask_ratio": 0.3}, {"weight_decay": [0.2, 0.1]}, "weight_decay is outside"),
    ({"mask_ratio": 0.3, "weight_decay": 0.0}, {}, {"mask_ratio": 0.3}),
    ({"mask_ratio": 0.3, "weight_decay": 0.1}, {}, "weight_decay is 0 in this space (was 0.1)"),
    # With the method, ratio 0 is called sft.
    (
        {"mask_ratio": 0.0},
        {"method": ["sft", "gmt"], "mask_ratio": [0.3, 0.6]},
        {"method": "sft"},
    ),
    (
        {"mask_ratio": 0.6},
        {"method": ["sft", "gmt"], "mask_ratio": [0.3, 0.6]},
        {"method": "gmt", "mask_ratio": 0.6},
    ),
    ({"method": "sft"}, {}, {"mask_ratio": 0.0}),
    ({"method": "hft"}, {}, "method is"),
    ({"mask_ratio": 0.3, "betas": "[0.9, 0.95]"}, {}, "betas is"),
]


@pytest.mark.parametrize(("point", "space", "fits"), CASES)
def test_which_points_fit(tree: Tree, point: Tree, space: Tree, fits: Tree | str) -> None:
    config = parse_config({**tree, "space": {**WIDE, **space}})
    rest = {"accumulation_interval": 2, "learning_rate": 1e-3}
    if isinstance(fits, str):
        with pytest.raises(ValueError) as raised:
            point_in(config, "sums", {**point, **rest})
        assert fits in str(raised.value)
    else:
        assert point_in(config, "sums", {**point, **rest}) == {**fits, **rest}


SPACES = st.fixed_dictionaries(
    {
        "mask_ratio": st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9]), min_size=1, unique=True),
        "accumulation_interval": st.lists(st.sampled_from([1, 2, 4]), min_size=1, unique=True),
        "learning_rate": st.sampled_from(
            [{"low": 1e-4, "high": 1e-2, "log": True}, {"low": 1e-3, "high": 2e-3}, [1e-3, 2e-3]]
        ),
    },
    optional={"weight_decay": st.sampled_from([0.0, 0.1, [0.0, 0.1]])},
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(spaces=st.lists(SPACES, min_size=2, max_size=4))
def test_taking_over_is_idempotent_and_loses_nothing(tree: Tree, spaces: list[Tree]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    configs = [parse_config({**tree, "space": space}) for space in spaces]
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, direction="maximize")
    space = SearchSpace(configs[0].space_of("sums"))
    for number in range(6):
        if number == 5:  # one of the points with another seed
            study.enqueue_trial({**study.trials[0].params, "seed": 9, "stage": "fresh"})
        trial = study.ask()
        point = space.suggest(trial)
        outcome = {"state": "finished", "score": score(point), "metrics": {}, "kind": ""}
        for name, value in {"number": number, "key": f"k{number}", "outcome": outcome}.items():
            trial.set_user_attr(name, value)
        study.tell(trial, outcome["score"])
    whole, known = trial_rows(study, 0), {trial.number: trial for trial in study.get_trials()}
    for config in [*configs[1:], configs[0]]:
        new = optuna.create_study(direction="maximize")
        carry_over(study, new, config, "sums")
        again = optuna.create_study(direction="maximize")
        carry_over(new, again, config, "sums")
        kept = [(t.state, t.params, t.values, t.user_attrs) for t in new.get_trials()]
        assert kept == [(t.state, t.params, t.values, t.user_attrs) for t in again.get_trials()]
        for trial in finished_trials(new):
            point_in(config, "sums", trial.params)
            assert trial.values in (known[trial.number].values, None)
            assert trial.values is not None or trial.params["stage"] == "fresh"
        study = new
    assert trial_rows(study, 0) == whole  # back in the first space, nothing is missing


def test_an_unchanged_space_is_the_study_itself(sweep_files: Path) -> None:
    config = play(FINISHED)
    study = open_study(config, "sums")
    assert preview(study, config, "sums") == (study, "")
