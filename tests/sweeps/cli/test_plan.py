"""What `plan` counts, against counting by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.config.load import load_config, parse_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution.disk_need import DiskNeed, check_disk, checkpoint_cost, disk_need
from sweeps.execution.planning import Machine, plan
from sweeps.execution.sweep import open_study
from sweeps.execution.trial_time import (
    ItemCounts,
    Pace,
    count_items,
    given_pace,
    recorded_pace,
    shortest_run,
)
from sweeps.search.requests import Inbox
from sweeps.search.trial_counts import first_trials, kept_models, workload
from sweeps.search.trial_records import Records, recorded_rows
from sweeps.storage.errors import UserError
from tests.sweeps.played import FINISHED, OOM, RUNNING, STOPPED, play, trial_folders

Tree = dict[str, Any]
NUISANCE = {"accumulation_interval": [1, 2], "learning_rate": 1e-3}
METRICS = {"metrics/cost/train_seconds": 90.0, "metrics/cost/eval_seconds": 30.0}
MINI_PARAMETERS = 502_656


def call(*arguments: str) -> Result:
    return call_of("plan", *arguments)


def call_of(*arguments: str) -> Result:
    return CliRunner().invoke(app.app, [*arguments])


def design(tree: Tree, **study: Any) -> Tree:
    return {**tree, "study": {"nuisance": NUISANCE, "margin": 0.02, **study}}


def test_a_search_has_its_trials(tree: Tree) -> None:
    work = workload(parse_config(tree), "sums", ())
    assert (work.total, work.done, work.left, work.to_train) == (3, 0, 3, 3)


def test_a_fixed_design_is_counted_to_its_last_stage(tree: Tree) -> None:
    asked = {"kind": "sensitivity", "ratios": [0, 0.5], "seeds": 4, "fresh_seeds": 3}
    work = workload(parse_config(design(tree, **asked)), "sums", ())
    # Tuning: 2 arms x 2 intervals; replicates: 2 arms x 4 seeds; fresh: the winner and SFT x 3.
    assert work.total == 4 + 8 + 6
    assert work.derived == 0


def test_derived_trials_train_nothing(tree: Tree) -> None:
    asked = {"kind": "drop", "drop_rates": [0.1, 0.5], "seeds": 4}
    work = workload(parse_config(design(tree, **asked)), "sums", ())
    # SFT: 2 tuning, 4 replicates; each replicate: 3 rules x 2 rates.
    assert (work.total, work.derived, work.to_train) == (6 + 24, 24, 6)


def test_models_that_are_kept(tree: Tree) -> None:
    assert kept_models(parse_config(tree), "sums") == 2  # the best, and the best SFT
    every = {**tree, "keep": {"models": "all"}}
    assert kept_models(parse_config(every), "sums") == 3
    again = {**tree["search"], "fresh_seeds": {"best": 1, "seeds": 2}}
    assert kept_models(parse_config({**every, "search": again}), "sums") == 3 + 2
    drop = design(tree, kind="drop", drop_rates=[0.1], seeds=4)
    assert kept_models(parse_config(drop), "sums") == 4  # the replicates, to derive from


def test_the_pace_of_finished_trials(sweep_files: Path) -> None:
    records = Records(play({**FINISHED, **METRICS}, STOPPED, OOM))
    rows = records.rows("sums")
    assert recorded_pace(rows) == Pace(90.0, 30.0, "the one finished trial of this study")
    assert recorded_pace(rows[1:]) is None


def test_the_pace_of_given_times(tree: Tree) -> None:
    config = parse_config({**tree, "evaluation": {"checks": 3}})
    # 64 examples in batches of 8; the last check sees 10 items, the two before it 5 each.
    pace = given_pace(config, "sums", 0.5, 2.0, ItemCounts(last=10, earlier=5))
    assert (pace.training, pace.evaluation) == (8 * 0.5, 2.0 * 20 / 10)
    assert given_pace(config, "sums", 0.5, None, ItemCounts(10, 5)).evaluation is None


def test_items_are_counted_as_they_are_scored(sweep_files: Path) -> None:
    config = resolve_paths(load_config("sweep.yaml", ["evaluation.check_limit=2"]))
    assert count_items(config, "sums") == ItemCounts(last=4, earlier=2)


def test_hours_and_money(tree: Tree) -> None:
    config = resolve_paths(
        parse_config({**tree, "resources": {"workers": 2, "gpus_per_worker": 1}})
    )
    found = plan(
        config, {"sums": ()}, Machine("here", 2), lambda *_: Pace(3600, 1800, "x"), price=2.0
    )
    # 3 trials of 1.5 hours on 2 GPUs each, two trials at a time.
    assert (found.device, found.devices_per_trial) == ("GPU", 2)
    assert found.training_device_hours == pytest.approx(6)
    assert found.evaluation_device_hours == pytest.approx(3)
    assert found.hours == pytest.approx(4.5 / 2)
    assert found.money == pytest.approx(18)


MISTRAL = 7_241_732_096
TO_WRITE = 3 * 4 * MISTRAL / 125e6  # seconds: weights and moments, at 125 MB/s


def seven_billion(tree: Tree, **training: Any) -> Tree:
    """200 updates with a checkpoint after each 50, but for the last."""
    tree["training"] |= {"examples": 200 * 8, "checkpoint_updates": 50, **training}
    return {**tree, "evaluation": {"checks": 1}, "resources": {"gpus_per_worker": 1}}


@pytest.mark.parametrize(
    ("background", "training", "waits"),
    [
        (False, None, 3 * TO_WRITE),
        ("auto", None, None),
        ("auto", 2000.0, 3 * (TO_WRITE - 500)),  # from one to the next, or to the end
        (True, 4000.0, 0),
    ],
)
def test_what_the_checkpoints_of_seven_billion_parameters_cost(
    tree: Tree, background: Any, training: float | None, waits: float | None, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sweeps.finetune.memory_check.count_parameters", lambda _: MISTRAL)
    config = resolve_paths(parse_config(seven_billion(tree, checkpoint_async=background)))
    found = checkpoint_cost(shortest_run(config, "sums"), 1, "cuda", training, 125.0)
    assert found is not None
    assert (found.count, found.size) == (3, 3 * 4 * MISTRAL)
    assert found.seconds == pytest.approx(TO_WRITE)
    assert found.waits == (None if waits is None else pytest.approx(waits))


def test_the_plan_says_what_checkpoints_cost(
    tree: Tree, sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.finetune.memory_check.count_parameters", lambda _: MISTRAL)
    (sweep_files / "sweep.yaml").write_text(json.dumps(seven_billion(tree)))
    line = "  checkpoints: 3 of 80.93 GiB and 11 min 35 s to write each; "
    assert f"{line}training waits only if the next" in call("sweep.yaml").stdout
    fast = call("sweep.yaml", "--write-rate", "1000").stdout
    assert "80.93 GiB and 1 min 27 s to write each" in fast
    given = ("--seconds-per-step", "1", "--price", "10", "training.checkpoint_async=false")
    found = call("sweep.yaml", *given).stdout
    assert f"{line}a trial waits 34 min 46 s, 0.579 GPU-hours, 5.79 of money" in found


@pytest.mark.parametrize(("domains", "hours"), [("in_turn", 2 * 1.5), ("side_by_side", 1.5)])
def test_no_more_trials_run_at_once_than_there_are(tree: Tree, domains: str, hours: float) -> None:
    tree["search"] = {"trials": 1}
    tree["resources"] = {"domains": domains, "concurrency": 9}
    tree["domains"]["more"] = tree["domains"]["sums"]
    config = resolve_paths(parse_config(tree))
    pace = Pace(3600, 1800, "x")
    found = plan(config, {"sums": (), "more": ()}, Machine("", 9), lambda *_: pace, None)
    assert found.hours == pytest.approx(hours)
    assert first_trials(config) == (2 if domains == "side_by_side" else 1)


@pytest.mark.parametrize(("kind", "first"), [("sensitivity", 2 * 4), ("efficiency", 1)])
def test_a_design_begins_with_its_first_stage(tree: Tree, kind: str, first: int) -> None:
    tree["study"] = {
        "kind": kind,
        "margin": 0.02,
        "mask_ratio": 0.5,
        "ratios": [0.0, 0.5],
        "nuisance": {"accumulation_interval": [1, 2], "learning_rate": [1e-3, 2e-3]},
    }
    assert first_trials(parse_config(tree)) == first


def test_one_domain_without_a_pace_leaves_the_time_open(tree: Tree) -> None:
    tree["domains"]["more"] = tree["domains"]["sums"]
    config = resolve_paths(parse_config(tree))
    paces = {"sums": Pace(1, 1, "x"), "more": None}
    found = plan(config, dict.fromkeys(paces, ()), Machine("", 1), lambda d, _: paces[d], 1.0)
    assert found.hours is None and found.money is None
    assert found.domains[0].training_hours is not None


def test_the_disk_holds_checkpoints_and_models(tree: Tree) -> None:
    config = resolve_paths(parse_config({**tree, "model": {"path": "mini:model"}}))
    need = disk_need(config, 2, {"sums": ()})
    assert need is not None
    model = 4 * MINI_PARAMETERS
    # Two trials with two checkpoints each while one is written; two kept and two fresh models.
    assert need.checkpoints == 2 * 2 * 3 * model
    assert need.models == (2 + 2) * model
    assert need.free > 0


def test_gpus_that_are_too_small_are_refused_before_any_is_rented(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.finetune.memory_check.count_parameters", lambda model: 7 * 2**30)
    given = ["plan", "sweep.yaml", "resources.gpus_per_worker=1", "--gpu-memory"]
    done = CliRunner().invoke(app.app, [*given, "24"])
    assert done.exit_code == 2, done.output
    assert "use larger GPUs, more workers with training.parallel: fsdp" in done.stderr
    assert CliRunner().invoke(app.app, [*given, "400"]).exit_code == 0


def test_a_full_disk_is_refused_before_the_start(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve_paths(parse_config({**tree, "storage": str(tmp_path)}))
    check_disk(config)
    monkeypatch.setattr("sweeps.execution.disk_need.free_disk", lambda _: 1_000_000)
    with pytest.raises(UserError, match=r"0\.00 GiB free, but the sweep needs up to 0\.0"):
        check_disk(config)


def test_a_sweep_that_has_begun_needs_room_for_what_is_missing(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = play(FINISHED, FINISHED, RUNNING)
    folders = trial_folders(config)
    (folders[0] / "model").mkdir()
    (folders[2] / "checkpoint" / "step-0000000002").mkdir(parents=True)
    need = disk_need(config, 2, recorded_rows(config))
    assert need is not None
    model = 4 * MINI_PARAMETERS
    # One trial is left: its next checkpoint beside the one that is there, its own model until it
    # ends, and one more model that is kept.
    assert (need.checkpoints, need.models) == (3 * model, (1 + 1) * model)
    monkeypatch.setattr("sweeps.execution.disk_need.free_disk", lambda _: need.total)
    check_disk(config)
    monkeypatch.setattr("sweeps.execution.disk_need.free_disk", lambda _: need.total - 1)
    with pytest.raises(UserError, match="the sweep needs up to"):
        check_disk(config)


def test_a_sweep_that_is_complete_needs_no_room(sweep_files: Path) -> None:
    config = play(FINISHED, FINISHED, FINISHED)
    need = disk_need(config, 2, recorded_rows(config))
    assert need is not None and need.total == 0


def test_without_a_network_a_model_of_the_hub_has_no_size(tree: Tree, sweep_files: Path) -> None:
    config = parse_config({**tree, "model": {"path": "nobody/nothing"}})
    assert disk_need(config, 1, {"sums": ()}) is None
    text = call("sweep.yaml", "model.path=nobody/nothing").stdout
    assert "memory: unknown: no safetensors headers" in text
    assert "disk: unknown: no safetensors headers" in text


def test_the_command_before_anything_has_run(sweep_files: Path) -> None:
    result = call("sweep.yaml")
    assert result.exit_code == 0, result.output
    for words in (
        "small: search, 1 domain\n",
        "sums: 3 trials, 3 to run\n",
        "mask_ratio: 0 to 0.9 in steps of 0.1",
        "at accumulation interval 2: 4 updates of 16 examples",
        "time: unknown until a trial",
        "memory: at least 0.0",
        " GiB of host memory if all workers share a machine\n",
        "GiB free",
        "python -m sweeps run sweep.yaml",
    ):
        assert words in result.stdout
    assert not (sweep_files / "runs").exists()


def test_no_more_trials_at_a_time_than_there_are(sweep_files: Path) -> None:
    result = call("sweep.yaml", "search.trials=1", "resources.concurrency=1000")
    assert result.exit_code == 0, result.output
    assert "; 1 trial at a time\n" in result.stdout


def test_the_command_with_finished_trials(sweep_files: Path) -> None:
    play({**FINISHED, **METRICS})
    text = call("runs/small", "--price", "3").stdout
    assert "3 trials, 1 already done, 2 to run" in text
    assert "a trial: 1 min 30 s of training, 30 s of validation (from the one finished" in text
    assert "CPU-hours: 0.05 of training, 0.0167 of validation" in text
    assert "money: 0.20 at 3 per CPU-hour" in text


def test_the_command_when_every_trial_is_done(sweep_files: Path) -> None:
    play(*[{**FINISHED, **METRICS}] * 3)
    lines = call("runs/small").stdout.splitlines()
    assert "time: none, all trials are done" in lines
    assert lines[-2:] == ["to write the report again:", "  python -m sweeps run runs/small"]


def test_requests_that_no_driver_has_taken_are_counted(sweep_files: Path) -> None:
    config = play({**FINISHED, **METRICS}, FINISHED, FINISHED)
    call_of("queue", "runs/small", "mask_ratio=0.3", "learning_rate=0.005")
    call_of("queue", "runs/small", "mask_ratio=0.4")
    text = call("runs/small").stdout
    assert "sums: 5 trials, 3 already done, 2 to run (2 queued by hand)\n" in text
    study = open_study(config, "sums")
    Inbox(config, "sums", study, lambda said: None).accept()  # taken, not started
    assert "5 trials, 3 already done, 2 to run (2 queued by hand)" in call("runs/small").stdout
    assert "3 of 5" in call_of("status", "runs/small").stdout


def test_a_run_that_would_be_refused_is_told_before(sweep_files: Path) -> None:
    play(FINISHED)
    refused = call("sweep.yaml", "training.examples=32")
    run = call_of("run", "sweep.yaml", "training.examples=32")
    assert refused.exit_code == run.exit_code == 2
    assert "training.examples: was 64, now 32" in run.stderr
    assert refused.stderr == run.stderr.replace("error: ", "error: it would be refused: ")
    assert "to run it:" not in refused.stdout and "sums: 3 trials" in refused.stdout
    document = json.loads(call("sweep.yaml", "training.examples=32", "--json").stdout)
    assert document["next"] == [] and document["result"]["refused"] in refused.stderr


def result_of(*arguments: str) -> dict[str, Any]:
    return dict(json.loads(call(*arguments, "--json").stdout)["result"])


def test_json(sweep_files: Path) -> None:
    found = result_of("sweep.yaml", "--seconds-per-step", "45")
    assert found["domains"][0]["pace"]["training"] == 8 * 45
    assert math.isclose(found["training_device_hours"], 3 * 8 * 45 / 3600)
    assert found["evaluation_device_hours"] is None
    assert DiskNeed(**found["disk"]).total > 0


def test_a_given_throughput_is_that_of_training_examples(sweep_files: Path) -> None:
    found = result_of("sweep.yaml", "--samples-per-second", "2")
    domain = found["domains"][0]
    assert domain["pace"]["training"] == domain["examples"] / 2
    result = call("sweep.yaml", "--samples-per-second", "2", "--seconds-per-step", "1")
    assert result.exit_code == 2
    assert call("sweep.yaml", "--samples-per-second", "0").exit_code == 2


def test_measured_here(sweep_files: Path) -> None:
    result = call("sweep.yaml", "--measure", "--json")
    assert result.exit_code == 0, result.output
    pace = json.loads(result.stdout)["result"]["domains"][0]["pace"]
    assert pace["training"] > 0 and pace["evaluation"] > 0
    assert "measured here" in pace["source"]
    assert not (sweep_files / "runs").exists()


@pytest.fixture
def two_points(sweep_files: Path, tree: Tree) -> Tree:
    """A hundred trials are asked for, of two points; the tree of `sweep.yaml`."""
    space = {"mask_ratio": [0.0, 0.4], "accumulation_interval": 1, "learning_rate": 1e-3}
    small = {**tree, "space": space, "search": {"trials": 100, "sampler": "random"}}
    (sweep_files / "sweep.yaml").write_text(json.dumps(small))
    return small


SHORT = "search.trials is 100, but the space has only 2 points; each is trained once"


def test_a_plan_names_a_space_smaller_than_its_trials(two_points: Tree) -> None:
    said = call("sweep.yaml").stdout.splitlines()
    assert said[said.index("sums: 2 trials, 2 to run") + 1] == f"  {SHORT}"
    (domain,) = result_of("sweep.yaml")["domains"]
    assert (domain["total"], domain["left"], domain["shortfall"]) == (2, 2, SHORT)


def test_validate_names_it_too(two_points: Tree) -> None:
    result = CliRunner().invoke(app.app, ["validate", "sweep.yaml"])
    assert result.exit_code == 0, result.output
    assert f"sums: {SHORT}\nsweep.yaml is valid: 2 trials, domain sums." in result.stdout


def test_nothing_is_left_of_a_space_that_is_exhausted(two_points: Tree) -> None:
    config = play(FINISHED, STOPPED)
    work = workload(config, "sums", recorded_rows(config)["sums"])
    assert (work.total, work.done, work.left) == (2, 2, 0)
    assert "sums: 2 trials, 2 already done, 0 to run" in call("sweep.yaml").stdout


def test_a_grid_takes_no_number_of_trials(two_points: Tree) -> None:
    grid = parse_config({**two_points, "search": {"trials": 100, "sampler": "grid"}})
    assert grid.shortfall("sums") == ""
    assert workload(grid, "sums", ()).total == 2
