"""Scores on the test items, and the trials they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Self, final

from sweeps.storage.atomic_io import atomic_write

FILE = "test_scores.json"


@final
@dataclass(frozen=True)
class TestScores:
    """``entries[role]``: scores as in `StudyData.test_results`; ``keys[role]``: the trial.

    A search has the roles "best" and "sft"; in a fixed design every tested trial is its own role.
    ``items[role][benchmark]``: one [id, score, weight, cluster] per item, for paired comparisons;
    the weight is the item's in the benchmark's score, and older records have no cluster.
    """

    __test__ = False  # pytest would collect it for its name

    keys: Mapping[str, str] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    items: Mapping[str, Mapping[str, list[list[Any]]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The scores of an earlier session; empty if there are none."""
        path = folder / FILE
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def write(self, folder: Path) -> None:
        """Write the record atomically, without what is not known (NaN, which JSON has not)."""
        known = {
            role: {name: value for name, value in entries.items() if isfinite(value)}
            for role, entries in self.entries.items()
        }
        text = json.dumps(asdict(replace(self, entries=known)), allow_nan=False)
        atomic_write(folder / FILE, text)
