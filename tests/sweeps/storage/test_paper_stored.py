"""A paper whose storage is an object store: its studies, and what another machine sees of it."""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path

import pytest

from sweeps.cli.status_view import paper_status
from sweeps.config.budget import StopCondition
from sweeps.config.load import is_paper, load_config, parse_config
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import paper, tuner
from sweeps.execution.progress import LineDisplay
from sweeps.execution.trial_batch import TrialBatch
from sweeps.storage.address import Address
from sweeps.storage.object_store import ObjectStore
from tests.sweeps.conftest import Tree
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.played import FINISHED, Groups


def test_a_paper_is_seen_whole_from_another_machine(
    tree: Tree,
    sweep_files: Path,
    bucket: Address,
    store: ObjectStore,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run_tuner(
        config: SweepConfig, given: list[TrialBatch], halt: StopCondition, *rest: object
    ) -> None:
        (one,) = given
        for number in range(one.trials):
            one.search.suggest(str(number))
            one.search.on_trial_complete(str(number), FINISHED)

    monkeypatch.setattr(tuner, "run_tuner", run_tuner)
    monkeypatch.setattr(paper, "worker_session", lambda *given: nullcontext(Groups()))
    study = {"paper": ["search"]}
    config = parse_config(tree | {"storage": str(bucket), "study": study})
    paper.run(config, LineDisplay(io.StringIO()), MemoryTracker())
    assert {"small/sweep.yaml", "small/paper/report.html"} <= set(store.files())

    home.rename(sweep_files / "lost")
    found = load_config(str(bucket).replace("?", "/small?"))
    assert resolve_paths(found) == resolve_paths(config)
    assert is_paper(found)
    look = paper_status(found)
    assert (look.state, len(look.studies), look.to_come) == ("complete", 1, ())
    assert look.report is not None
