"""Arms against SFT on the same test items, over all seeds that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from evaluators.paired_comparison import Difference, ScoredItem, differences
from sweeps.report.arms import SFT, Rows, Setting, scored_at
from sweeps.report.page import Drawn, table
from sweeps.report.trial_row import ScoreLabel

Items = Mapping[str, Mapping[str, Sequence[Sequence[Any]]]]
"""By trial key and benchmark: one [id, score, weight, cluster, ...] per test item."""

NOTE = (
    "Test items are read once, at the end. Differences are paired: both models of a seed answered "
    "the same items, and a resampled item brings all its seeds. The intervals cover other items "
    "for the same models, each row by itself; those of the seeds cover other seeds."
)


def against_sft(
    items: Items, rows: Rows, setting: Setting, stage: str = "replicate"
) -> tuple[Difference, ...]:
    """An arm minus SFT by benchmark, and of several their mean last, named "".

    The base model, which has no seeds, is compared with every SFT model. Empty without a pair of
    models that answered the same items, two or more.
    """
    sft = {row.seed: items.get(row.key, {}) for row in scored_at(rows, SFT, stage)}
    ours = {row.seed: items.get(row.key, {}) for row in scored_at(rows, setting, stage)}
    if setting.method == "pretrained":
        ours = dict.fromkeys(sft, next(iter(ours.values()), {}))
    seeds = [seed for seed, found in ours.items() if found and sft.get(seed)]
    if not seeds:
        return ()
    try:
        found = differences(*(_over_seeds([side[seed] for seed in seeds]) for side in (ours, sft)))
    except ValueError:  # no item in common
        return ()
    return tuple(each for each in found if not isnan(each.low))


def _over_seeds(
    models: Sequence[Mapping[str, Sequence[Sequence[Any]]]],
) -> dict[str, list[ScoredItem]]:
    """Each item with its mean score over models that answered the same items in one order."""
    found = {}
    for name in models[0]:
        sides = [[ScoredItem(*item) for item in model[name]] for model in models]
        found[name] = [
            first._replace(score=sum(each.score for each in same) / len(same))
            for first, *rest in zip(*sides, strict=True)
            for same in [(first, *rest)]
        ]
    return found


def on_test(title: str, label: ScoreLabel, found: Mapping[str, Sequence[Difference]]) -> Drawn:
    """The differences of arms from SFT, by the arm's name; or what is missing."""
    rows = [
        {
            "arm": name,
            "minus SFT": label.difference(each.difference),
            "95 %, items resampled": label.interval(each, signed=True),
            "test items of": each.benchmark or "all benchmarks",
            "score": label.number(each.a),
            "SFT": label.number(each.b),
            "items": each.n,
        }
        for name, arms in found.items()
        for each in arms
    ]
    if not rows:
        return Drawn("", title, "The test items have not been read.")
    return Drawn("", title, NOTE, table=table(rows))
