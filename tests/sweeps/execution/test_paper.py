"""The paper's studies from one configuration: what each takes from the others, and refusals."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from sweeps.config.load import load_config, parse_config
from sweeps.config.study_identity import git_commit, study_definition
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import reporting
from sweeps.execution.export import export, model_card, run_yaml
from sweeps.execution.paper import check, report, run, study_of
from sweeps.execution.progress import LineDisplay
from sweeps.execution.single_run import load_single_run
from sweeps.execution.sweep import StudyResult, open_study
from sweeps.report.trial_row import TrialRow
from sweeps.search.fixed_designs import build_design, mask_ratio
from sweeps.storage.errors import UserError
from tests.sweeps.memory_tracker import MemoryTracker

Tree = dict[str, Any]
NUISANCE = {"accumulation_interval": 1, "learning_rate": [1e-3, 3e-3]}


@pytest.fixture
def paper(tree: Tree) -> Tree:
    return tree | {"study": {"kind": "sensitivity", "margin": 0.02, "nuisance": NUISANCE}}


def test_each_kind_is_a_sweep_of_its_own(paper: Tree) -> None:
    config = parse_config(paper)
    for kind in config.study.paper:
        one = study_of(config, kind, final=False)
        assert one.name == f"small-{kind}"
        assert one.study.kind == kind
        assert (build_design(one, "sums") is None) == (kind in ("search", "efficiency"))


def test_more_seeds_leave_a_study_the_same_and_another_margin_does_not(paper: Tree) -> None:
    before = study_definition(parse_config(paper), "sums")
    more = paper | {"study": paper["study"] | {"seeds": 9, "fresh_seeds": 4}}
    assert study_definition(parse_config(more), "sums") == before
    wider = paper | {"study": paper["study"] | {"margin": 0.05}}
    assert study_definition(parse_config(wider), "sums") != before


def test_the_margin_is_on_record_before_the_first_trial(paper: Tree, tmp_path: Path) -> None:
    config = parse_config(paper | {"storage": str(tmp_path)})
    study = open_study(config, "sums")
    assert study.user_attrs["manifest"]["margin"] == 0.02
    assert study.user_attrs["manifest"]["declared"].endswith("UTC")
    assert study.trials == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sensitivity", "nuisance": NUISANCE}, "margin is missing"),
        ({"ratios": [0.1, 0.2]}, "expected 0 among them"),
        ({"ratios": [0.0, 1.0]}, r"study.ratios.1.*less than 1"),
        ({"kind": "sensitivty"}, "did you mean 'sensitivity'"),
        ({"seed": 3}, "did you mean 'seeds'"),
        ({"ratio": 0.3}, "did you mean 'ratios'"),
        ({"lr": 1e-3}, "did you mean 'study.nuisance.learning_rate'"),
        (
            {"gradient_accumulation_steps": 4},
            "did you mean 'study.nuisance.accumulation_interval'",
        ),
        ({"mask_ratio": [0.1, 0.1]}, "each value once"),
        ({"drop_rates": [0.5, 0.5]}, "each value once"),
        ({"nuisance": {"accumulation_interval": 1.5, "learning_rate": 1e-3}}, "whole number"),
        ({"nuisance": {"accumulation_interval": 1, "learning_rate": -1}}, "above 0"),
        (
            {"nuisance": {"accumulation_interval": 1, "learning_rate": {"low": 1, "high": 2}}},
            "list of numbers",
        ),
    ],
)
def test_mistakes_are_named(tree: Tree, change: Tree, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(tree | {"study": change})


def test_what_is_missing_is_said_before_anything_runs(tree: Tree) -> None:
    bare = tree | {"study": {"paper": ["methods"]}}
    with pytest.raises(UserError, match=r"study\.nuisance is missing"):
        check(parse_config(bare))
    for paper in (["data"], ["efficiency", "methods"]):
        some = tree | {"study": {"paper": paper, "nuisance": NUISANCE}}
        with pytest.raises(UserError, match=r"study\.mask_ratio is missing"):
            check(parse_config(some))
    check(parse_config(tree | {"study": {"paper": ["methods", "data"], "nuisance": NUISANCE}}))
    spaceless = {key: value for key, value in tree.items() if key != "space"}
    with pytest.raises(UserError, match="space is missing: a search requires it"):
        parse_config(spaceless)
    fixed = spaceless | {"study": {"kind": "drop", "nuisance": NUISANCE, "margin": 0.1}}
    with pytest.raises(UserError, match="space is missing: a search requires it"):
        check(parse_config(fixed))
    check(parse_config(fixed | {"study": {**fixed["study"], "paper": ["methods", "drop"]}}))
    with pytest.raises(UserError, match=r"study\.margin is missing"):
        check(parse_config(tree | {"study": {"paper": ["sensitivity"], "nuisance": NUISANCE}}))
    with pytest.raises(UserError, match=r"study.nuisance is missing: a methods study"):
        build_design(parse_config(tree | {"study": {"kind": "methods"}}), "sums")


def test_a_domain_may_have_its_own_ratio_and_nuisance_parameters(paper: Tree) -> None:
    own = paper["domains"]["sums"] | {
        "mask_ratio": 0.7,
        "nuisance": {"accumulation_interval": 2, "learning_rate": 5e-3},
    }
    config = parse_config(paper | {"domains": {"sums": own}})
    assert mask_ratio(config, "sums") == 0.7
    design = build_design(config, "sums")
    assert design is not None
    assert design.plan.combinations == ((2, 5e-3),)


def test_no_study_takes_a_ratio_from_replicates_of_another(
    paper: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same seeds and items, the winner of sensitivity would lead by luck."""
    config = parse_config(paper | {"storage": str(tmp_path), "search": {"trials": 1}})
    study = open_study(study_of(config, "sensitivity"), "sums")
    for seed in range(2):
        for ratio, score in ((0.0, 0.9), (0.3, 0.5), (0.6, 0.8)):
            _finish(study, ratio, seed, score)
    assert study_of(config, "methods").study.mask_ratio is None
    with pytest.raises(UserError, match="no masked trial finished"):
        study_of(config, "data")
    tuned = open_study(study_of(config, "methods"), "sums")
    _finish(tuned, 0.2, 0, 0.1)
    assert mask_ratio(study_of(config, "data"), "sums") == 0.2
    seeds = {kind: study_of(config, kind, final=False).seed for kind in config.study.paper}
    assert seeds.pop("search") not in {seed + n for seed in seeds.values() for n in range(1000)}
    estimated: list[object] = []
    monkeypatch.setattr(reporting, "importances", lambda *given: estimated.append(given) or ())
    html = report(config).read_text()
    assert len(estimated) == 1  # for the one sensitivity study
    assert "sums:" in html
    assert "Best mask ratio" in html


def _finish(study: optuna.Study, ratio: float, seed: int, score: float) -> None:
    from sweeps.search.design import DesignPoint, DesignSpace

    method = "gmt" if ratio else "sft"
    study.enqueue_trial(DesignPoint(method, ratio, 1, 1e-3, seed, "replicate").params())
    trial = study.ask()
    DesignSpace().suggest(trial)
    trial.set_user_attr("number", trial.number)
    trial.set_user_attr("key", f"k{trial.number}")
    trial.set_user_attr("outcome", {"state": "finished", "score": score, "seconds": 1.0})
    study.tell(trial, score)


ROW = TrialRow(
    number=4,
    key="004-abc",
    state="finished",
    mask_ratio=0.3,
    accumulation_interval=2,
    learning_rate=1e-3,
    seed=5,
    score=0.7,
    step=4,
    steps=4,
    seconds=1.0,
)


def test_an_exported_configuration_runs_by_itself(tree: Tree, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(run_yaml(parse_config(tree), "sums", ROW))
    run = load_single_run(path)
    assert run.method.name == "gmt"
    assert run.method.mask_ratio == 0.3
    assert (run.accumulation_interval, run.learning_rate, run.seed) == (2, 1e-3, 5)
    assert run.data.path == "train.jsonl"


def test_export_writes_the_model_with_its_card(tree: Tree, tmp_path: Path) -> None:
    config = parse_config(tree | {"storage": str(tmp_path / "runs")})
    study = open_study(resolve_paths(config), "sums")
    trial = study.ask()
    config.space.suggest(trial)
    trial.set_user_attr("number", 0)
    trial.set_user_attr("key", "000-abc")
    trial.set_user_attr("outcome", {"state": "finished", "score": 0.7, "seconds": 1.0})
    study.tell(trial, 0.7)
    found = export(config, tmp_path / "bare")["sums"]
    assert found.model is None  # the weights are gone: the configuration alone
    folder = tmp_path / "runs" / "small" / "sums" / "trials" / "000-abc" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    scores = folder.parents[2] / "test_scores.json"
    entries = {"sums/score": 0.5, "sums/standard_error": 0.1, "sums/n": 40.0}
    scores.write_text(json.dumps({"keys": {"best": "000-abc"}, "entries": {"best": entries}}))
    found = export(config, tmp_path / "out")["sums"]
    assert found.model is not None
    card = (found.model / "README.md").read_text()
    assert "| test items of sums | 0.500 | 0.304 to 0.696 | 40 |" in card
    assert "- Base model: `mini:model`, trained as auto\n" in card
    assert "- Training data: `train.jsonl`, " in card
    assert f"- Code: commit {git_commit()}\n" in card
    metadata = yaml.safe_load(card.split("---")[1])  # the hub refuses names that it does not know
    assert metadata.keys() == {"library_name", "pipeline_tag", "tags"}
    with pytest.raises(UserError, match="exists: give another folder"):
        export(config, tmp_path / "out")


def test_a_card_names_what_is_on_the_hub(tree: Tree) -> None:
    tree["model"] = {"path": "owner/base", "revision": "v1"}
    tree["domains"]["sums"]["data"] = {"path": "owner/rows", "revision": "v2"}
    card = model_card(parse_config(tree), "sums", ROW, {})
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["base_model"], metadata["datasets"]) == ("owner/base", ["owner/rows"])
    assert "- Base model: `owner/base` at revision `v1`" in card
    assert "- Training data: `owner/rows` at revision `v2`, " in card
    assert "Gradient-Mask Tuning (arXiv 2406.15330), mask ratio 0.3, accumulation" in card
    assert "| validation, " in card and "| 0.700 | | |" in card


def test_the_study_that_a_budget_ends_is_the_last(
    paper: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sensitivity would take the best of half a search, and be refused with that of the whole."""
    ran: list[str] = []

    def run_studies(one: SweepConfig, *given: object, **options: object) -> StudyResult:
        ran.append(one.study.kind)
        return StudyResult({}, stopped="the budget is spent" if len(ran) == 2 else "")

    monkeypatch.setattr("sweeps.execution.sweep.check", lambda *given: None)
    monkeypatch.setattr("sweeps.execution.sweep.run_studies", run_studies)
    monkeypatch.setattr("sweeps.execution.paper.worker_session", lambda *given: nullcontext())
    study = paper["study"] | {"nuisance": {**NUISANCE, "learning_rate": 1e-3}}
    config = parse_config(paper | {"study": study, "storage": str(tmp_path)})
    assert len(config.study.paper) > 2
    result = run(config, LineDisplay(io.StringIO()), MemoryTracker())
    assert ran == list(config.study.paper[:2])
    assert result.stopped == "the budget is spent"
    assert result.html.is_file()
    assert resolve_paths(load_config(tmp_path / "small")) == resolve_paths(config)


def test_a_paper_whose_efficiency_cannot_be_measured_is_reported_without_it(
    paper: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run_studies(one: SweepConfig, *given: object, **options: object) -> StudyResult:
        ran.append(one.study.kind)
        if one.study.kind == "efficiency":
            raise UserError("the measurement of efficiency failed: CUDA out of memory")
        return StudyResult({})

    monkeypatch.setattr("sweeps.execution.sweep.check", lambda *given: None)
    monkeypatch.setattr("sweeps.execution.sweep.run_studies", run_studies)
    monkeypatch.setattr("sweeps.execution.paper.worker_session", lambda *given: nullcontext())
    kinds = ["efficiency", "methods"]
    study = paper["study"] | {"paper": kinds, "mask_ratio": 0.5}
    config = parse_config(paper | {"study": study, "storage": str(tmp_path)})
    shown = io.StringIO()
    result = run(config, LineDisplay(shown), MemoryTracker())
    assert ran == kinds
    assert "CUDA out of memory" in shown.getvalue()
    assert result.unreached == tuple(("efficiency", domain) for domain in config.domains)
    assert result.html.is_file()
