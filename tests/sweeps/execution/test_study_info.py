"""What a tracker is told of each kind of study."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.config.load import parse_config
from sweeps.execution.reporting import study_info
from sweeps.search.fixed_designs import build_design

NUISANCE = {"accumulation_interval": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("kind", "trials", "note"),
    [
        ("search", "3", "Search over mask_ratio, accumulation_interval, learning_rate: 3"),
        ("drop", "fixed design", "Fixed design 'drop': 5 seeds"),
        ("efficiency", "0", "Training speed of each method"),
    ],
)
def test_the_note_says_what_kind_of_study_it_is(
    tree: dict[str, Any], kind: str, trials: str, note: str
) -> None:
    study = {"kind": kind, "nuisance": NUISANCE, "mask_ratio": 0.5, "seeds": 5}
    config = parse_config(tree | {"study": study})
    told = study_info(config, "sums", build_design(config, "sums"))
    assert told.note.startswith(note)
    assert (told.parameters["kind"], told.parameters["trials"]) == (kind, trials)
