"""What a training set is: how its rows are read, and where it lives on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sweeps.finetune.example import Example, Row


@dataclass(frozen=True)
class Home:
    """A dataset on the hub: its name, its subset where it has several, and its split."""

    name: str
    subset: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class TrainingSet:
    """`read` turns one row into its examples, or raises RowError; `home` is where rows lie."""

    read: Callable[[Row], Iterator[Example]]
    home: Home | None = None
