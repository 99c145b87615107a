"""Schedules of faults, drawn with a seed: what is done to a sweep, and when in its life."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, final, get_args

Kind = Literal[
    "worker",
    "actor",
    "controller",
    "driver",
    "terminated",
    "second_driver",
    "raylet",
    "tracking",
    "disk",
    "pause_worker",
    "pause_driver",
    "pause_tracking",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
TITLES: Final[Mapping[Kind, str]] = {
    "worker": "kill -9 of a train worker",
    "actor": "kill -9 of the trial's actor in Tune",
    "controller": "kill -9 of Train's controller",
    "driver": "kill -9 of the driver",
    "terminated": "SIGTERM to the driver",
    "second_driver": "a second driver, which is refused",
    "raylet": "kill -9 of the raylet of a second node; a third node joins",
    "tracking": "kill -9 of the MLflow server, back after 2 to 20 s",
    "disk": "the disk full, until the driver has ended",
    "pause_worker": "a train worker paused for 1 to 12 s",
    "pause_driver": "the driver paused for 1 to 12 s",
    "pause_tracking": "the MLflow server paused for 1 to 12 s",
}
AT_MOST: Final[Mapping[Kind, int]] = {
    "worker": 2,
    "actor": 1,
    "controller": 1,
    "raylet": 1,
    "disk": 1,
    "second_driver": 1,
}
"""In one sweep: a trial that loses more attempts than this has failed, and `retry` repeats it."""

FEWEST, MOST = 4, 6
ON_A_CLUSTER = 0.3
"""The share of sweeps that run on two nodes, where a raylet can be killed."""

START_SECONDS, END_SECONDS = 20.0, 5.0
PAUSE, OUTAGE = (1.0, 12.0), (2.0, 20.0)
"""Shortest and longest, in seconds."""


@final
@dataclass(frozen=True)
class Fault:
    """One fault: done ``delay`` seconds after the event logs of all trials together have
    ``events`` lines, as soon as there is a process to do it to.

    ``which``: in [0, 1), chooses one of several processes. ``seconds``: of a pause or an outage.
    """

    kind: Kind
    events: int
    delay: float
    which: float
    seconds: float


@final
@dataclass(frozen=True)
class Schedule:
    """The faults of one sweep. ``nodes``: of its Ray cluster; with 1 the driver starts Ray."""

    seed: int
    nodes: int
    faults: tuple[Fault, ...]


def draw(seed: int, events: int) -> Schedule:
    """The schedule of this seed, for a sweep whose event logs have ``events`` lines in the end."""
    chance = random.Random(seed)
    nodes = 2 if chance.random() < ON_A_CLUSTER else 1
    bag = [kind for kind in KINDS if nodes == 2 or kind != "raylet"]
    kinds: list[Kind] = ["raylet"] if nodes == 2 else []
    wanted = chance.randint(FEWEST, MOST)
    while len(kinds) < wanted:
        kind = chance.choice(bag)
        if kinds.count(kind) < AT_MOST.get(kind, MOST):
            kinds.append(kind)
    faults = [_fault(kind, chance, events) for kind in kinds]
    return Schedule(seed, nodes, tuple(sorted(faults, key=lambda one: (one.events, one.delay))))


def single(kind: Kind, seed: int, events: int) -> Schedule:
    """A schedule with one fault."""
    nodes = 2 if kind == "raylet" else 1
    return Schedule(seed, nodes, (_fault(kind, random.Random(f"{kind} {seed}"), events),))


def _fault(kind: Kind, chance: random.Random, events: int) -> Fault:
    """A fault at a random moment: while the sweep starts, between two updates, or at its end."""
    after, delay = chance.choices(
        [
            (0, chance.uniform(0, START_SECONDS)),
            (chance.randint(1, events - 1), chance.random()),
            (events, chance.uniform(0, END_SECONDS)),
        ],
        weights=[0.15, 0.7, 0.15],
    )[0]
    lasting = chance.uniform(*(OUTAGE if kind == "tracking" else PAUSE))
    return Fault(kind, after, round(delay, 2), round(chance.random(), 3), round(lasting, 1))
