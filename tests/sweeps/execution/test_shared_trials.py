"""Equal trials of a paper's studies are trained once, and its plan says so beforehand."""

from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config.budget import StopCondition
from sweeps.config.load import parse_config
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import paper, tuner
from sweeps.execution.paper_plan import paper_plan
from sweeps.execution.planning import Machine
from sweeps.execution.progress import LineDisplay
from sweeps.execution.shared_trials import TAKEN_FROM
from sweeps.execution.trial_batch import TrialBatch
from sweeps.search.trial_records import Records
from sweeps.storage.trial_files import MODEL
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, Groups

Tree = dict[str, Any]
STUDY = {
    "paper": ["methods", "sensitivity", "drop", "data"],
    "margin": 0.02,
    "nuisance": {"accumulation_interval": 1, "learning_rate": [1e-3, 2e-3]},
    "ratios": [0.0, 0.1, 0.3],
    "mask_ratio": [0.1, 0.3],
    "arms": ["sft", "gmt"],
    "seeds": 2,
    "fresh_seeds": 2,
    "drop_rates": [0.5],
    "fractions": [0.5, 1.0],
}


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(study, digest of its run) of every trial that a worker would have run."""
    found = list[tuple[str, str]]()

    def run_tuner(
        config: SweepConfig, given: list[TrialBatch], halt: StopCondition, *rest: object
    ) -> None:
        (one,) = given
        for number in range(one.trials):
            suggested = one.search.suggest(str(number))
            assert isinstance(suggested, dict)
            job = suggested["job"]
            found.append((config.name, job.key.partition("-")[2]))
            if not job.is_derived:
                Path(job.folder, MODEL).mkdir()
                Path(job.folder, MODEL, "config.json").write_text("{}")
            one.search.on_trial_complete(str(number), FINISHED)

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    monkeypatch.setattr(paper, "worker_session", lambda *given: nullcontext(Groups()))
    return found


def test_no_run_is_trained_twice_and_the_plan_counts_it(
    sweep_files: Path, tree: Tree, ran: list[tuple[str, str]]
) -> None:
    config = resolve_paths(parse_config(tree | {"study": STUDY}))
    planned = paper_plan(config, Machine("here", 1), lambda *_: None, None)
    tracker, said = MemoryTracker(), io.StringIO()
    paper.run(config, LineDisplay(said), tracker)
    assert max(Counter(run for _, run in ran).values()) == 1
    by_study = Counter(name for name, _ in ran)
    left = {s.name: sum(d.to_run() for d in s.domains) for s in planned.studies}
    assert by_study == left
    assert (planned.total, planned.left) == (planned.left, len(ran) + planned.shared)
    assert planned.shared == sum(sum(d.shared for d in s.domains) for s in planned.studies) > 8
    assert "trials were trained in another study" in said.getvalue()
    # Methods: 2 SFT rates x 2 seeds, 2 x 2 of GMT; 2 replicates each; the base model.
    assert by_study["small-methods"] == 4 + 4 + 4 + 1
    # Drop: SFT's tuning and replicates, with their models, are those of methods; 2 x 3 drops.
    assert by_study["small-drop"] == 6
    drop = Records(paper.study_of(config, "drop"))
    taken = [t for t in drop.trials("sums") if TAKEN_FROM in t.user_attrs]
    folders = [drop.place.trial("sums", t.user_attrs["key"]) for t in taken]
    kept = [folder for folder in folders if (folder / MODEL / "config.json").is_file()]
    assert (len(taken), len(kept)) == (4, 2)
    rows = drop.rows("sums")
    assert {t.user_attrs["key"] for t in taken} == set(tracker.store["small-drop/sums"].trials)
    assert {row.seconds for row in rows if row.method == "sft"} == {0.0}
    html = (sweep_files / "runs" / "small" / "paper" / "report.html").read_text()
    assert "of them trained in another study" in html
    assert "../../small-methods/sums/report/report.html" in html
    assert "What this report does not say" in html
    ran.clear()
    paper.run(config, LineDisplay(io.StringIO()), MemoryTracker())
    assert not ran


def test_a_trial_whose_weights_are_needed_and_gone_is_trained_again(
    sweep_files: Path, tree: Tree, ran: list[tuple[str, str]]
) -> None:
    study = STUDY | {"paper": ["sensitivity", "drop"]}  # sensitivity keeps no replicates
    paper.run(parse_config(tree | {"study": study}), LineDisplay(io.StringIO()), MemoryTracker())
    by_study = Counter(name for name, _ in ran)
    assert by_study["small-drop"] == 2 + 6


def test_the_plan_of_a_paper_adds_its_studies(sweep_files: Path, tree: Tree) -> None:
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree | {"study": STUDY}))
    given = ("sweep.yaml", "--paper", "--seconds-per-step", "1", "--seconds-per-check", "2")
    shown = CliRunner().invoke(app.app, ["plan", *given])
    assert shown.exit_code == 0, shown.output
    assert "small: a paper of 4 studies" in shown.stdout
    assert "taken from an earlier study" in shown.stdout
    assert "python -m sweeps paper sweep.yaml" in shown.stdout
    plain = json.loads(CliRunner().invoke(app.app, ["plan", *given, "--json"]).stdout)["result"]
    assert plain["left"] == sum(d["left"] for s in plain["studies"] for d in s["domains"])
    assert plain["hours"] == pytest.approx(sum(s["hours"] for s in plain["studies"]))
    bare = tree | {"study": {"paper": ["data"], "nuisance": STUDY["nuisance"]}}
    (sweep_files / "sweep.yaml").write_text(json.dumps(bare))
    refused = CliRunner().invoke(app.app, ["plan", "sweep.yaml", "--paper"])
    assert refused.exit_code == 2
    assert "study.mask_ratio is missing" in refused.output
