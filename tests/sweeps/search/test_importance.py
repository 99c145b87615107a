"""Shares of the score's variance on trials whose truth is known."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from sweeps.report.trial_row import TrialRow
from sweeps.search.importance import search_importances


def rows(count: int) -> tuple[TrialRow, ...]:
    """The score follows the logarithm of the learning rate; N and optimizer do nothing."""
    draw, found = random.Random(0), []
    for number in range(count):
        rate = 10 ** draw.uniform(-5, -3)
        score = math.log10(rate) + draw.gauss(0, 0.05)
        row = TrialRow(
            number, "k", "finished", 0.5, draw.choice((1, 2, 4)), rate, 0, score, 8, 8, 1.0
        )
        found.append(replace(row, others={"optimizer": draw.choice(("adamw", "sgd"))}))
    return tuple(found)


def test_what_the_score_follows_has_the_largest_share() -> None:
    (first, share), *others = search_importances(rows(30), 0, {"learning_rate"})
    assert first == "learning_rate"
    assert 0.7 < share.low <= share.estimate <= share.high <= 1.0
    assert {name for name, _ in others} == {"accumulation_interval", "optimizer"}
    assert all(each.estimate < 0.1 for _, each in others)


TEN = (
    (0.1, 1, 3.1e-4, 0.6328),
    (0.0, 1, 1.2e-3, 0.7344),
    (0.9, 4, 5.1e-4, 0.5000),
    (0.7, 4, 3.7e-3, 0.3203),
    (0.6, 2, 9.4e-4, 0.6641),
    (0.5, 1, 1.8e-3, 0.9219),
    (0.0, 4, 2.3e-3, 0.5078),
    (0.4, 1, 1.6e-3, 0.8203),
    (0.2, 1, 3.8e-3, 0.2578),
    (0.7, 1, 3.2e-4, 0.6406),
)
"""Mask ratio, interval, learning rate and score of the trials of a small search."""


def test_each_interval_contains_its_share() -> None:
    """Of ten trials, all bootstrap samples gave one parameter less than its share."""
    found = tuple(
        TrialRow(n, "k", "finished", ratio, interval, rate, 0, score, 8, 8, 1.0)
        for n, (ratio, interval, rate, score) in enumerate(TEN)
    )
    shares = [share for _, share in search_importances(found, 0, {"learning_rate"})]
    assert len(shares) == 3
    assert all(share.low <= share.estimate <= share.high for share in shares)


def test_too_few_trials_and_parameters_of_some_trials_have_none() -> None:
    assert search_importances((), 0, ()) == ()
    assert search_importances(rows(7), 0, ()) == ()
    some = rows(30)
    partly = (replace(some[0], others={}), *some[1:])
    names = [name for name, _ in search_importances(partly, 0, ())]
    assert sorted(names) == ["accumulation_interval", "learning_rate"]
