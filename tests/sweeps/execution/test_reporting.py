"""Reports and the page over all domains, written from the records."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import optuna
from optuna.trial import TrialState

from sweeps.config.load import load_config
from sweeps.config.sweep_config import paths_for
from sweeps.execution.report_data import StudyRecord, facts, learning_curves
from sweeps.execution.reporting import again, rewrite
from sweeps.search.attempt_records import NUMBER
from sweeps.search.trial_records import Records
from sweeps.storage.study_paths import save_links
from tests.sweeps.played import FINISHED, RUNNING, STOPPED, play


def test_the_index_leads_to_all_that_a_sweep_has_written(sweep_files: Path) -> None:
    config = play(STOPPED, FINISHED)
    folder = paths_for(config).folder
    save_links(folder / "sums", {"compare trials": "http://server/#/x"})
    report = rewrite(config)["sums"]
    index = (folder / "index.html").read_text()
    results = json.loads((report.html.parent / "results.json").read_text())
    assert f'<p class="verdict">{results["headline"]}</p>' in report.html.read_text()
    assert f"sums: {results['headline']}" in index
    assert results["best"].startswith("trial 1 ") and results["best"] in index
    assert "2 trials (1 finished, 1 stopped early)" in index
    for place in ("report/report.html", "report/trials.csv", "report/results.json", "trials/"):
        assert f'href="sums/{place}"' in index
        assert (folder / "sums" / place).exists()
    assert 'href="http://server/#/x"' in index


def test_results_of_an_earlier_version_are_not_taken_for_a_report(sweep_files: Path) -> None:
    config = play(FINISHED)
    both = {**config.domains, "more": config.domains["sums"]}
    (old := paths_for(config).study("more") / "report").mkdir(parents=True)
    (old / "results.json").write_text('{"headline": "of an earlier version"}')
    rewrite(config.model_copy(update={"domains": both}))
    index = (paths_for(config).folder / "index.html").read_text()
    assert "more: no report yet." in index
    assert "of an earlier version" not in index


def test_a_report_says_what_was_run_and_how_to_go_on(sweep_files: Path) -> None:
    config = play(FINISHED, RUNNING)
    record = StudyRecord.of(Records(config), "sums")
    assert record is not None
    told = dict(facts(record))
    assert told["data"] == f"{sweep_files.name}/train.jsonl"
    assert told["score"] == "exact_match score"
    assert told["date"].count("-") == 2 and told["commit"]
    html = rewrite(config)["sums"].html.read_text()
    for _, command in again(config):
        assert command in html
    resume, anew = (shlex.split(command) for _, command in again(config))
    assert Path(resume[-1]) == paths_for(config).folder
    assert load_config(anew[-2], anew[-1:]).name == "small-again"


def test_learning_curves_are_of_the_newest_attempt_over_the_share_of_the_updates() -> None:
    study = optuna.create_study()
    first, second = {1: 0.25}, {1: 0.25, 2: 0.5}
    for attrs, checks in (({NUMBER: 7}, first), ({NUMBER: 7}, second), ({}, first)):
        state = TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(state=state, user_attrs=attrs, intermediate_values=checks)
        )
    assert learning_curves(study, 4) == {7: [(0.25, 0.25), (0.5, 0.5)]}
