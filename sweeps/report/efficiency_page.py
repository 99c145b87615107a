"""The paper's Table 3: samples per second and FLOPs of each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sweeps.report import drawing
from sweeps.report.arms import Interval
from sweeps.report.page import Cells, Drawn, table
from sweeps.report.published import relative_speeds
from sweeps.report.trial_row import ScoreLabel

NAMES = {"sft": "SFT", "random": "Random Mask", "gmt": "GMT"}
RESAMPLES = 4000
RELATIVE = ScoreLabel("relative speed")


def relative_speed(
    measured: Mapping[str, Mapping[str, Any]], name: str, seed: int = 0
) -> Interval:
    """Speed relative to SFT: the median over rounds, each a pair of adjacent measurements.

    The interval is a 95 % bootstrap of the median over rounds.
    """
    ours, sft = (np.array(measured[key]["seconds"]) for key in (name, "sft"))
    ratios = sft / ours
    drawn = np.random.default_rng(seed).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Interval(float(np.median(ratios)), float(low), float(high))


def verdict(measured: Mapping[str, Mapping[str, Any]], place: str) -> str:
    """The speeds relative to SFT in one sentence."""
    found = {name: relative_speed(measured, name) for name in measured if name != "sft"}
    told = ", ".join(
        f"{NAMES[name]} {RELATIVE.number(speed.estimate)} (95 % {RELATIVE.interval(speed)})"
        for name, speed in found.items()
    )
    rounds = len(measured["sft"]["seconds"])
    return f"Samples per second relative to SFT, median of {rounds} rounds on {place}: {told}."


def efficiency(measured: Mapping[str, Mapping[str, Any]], place: str) -> Drawn:
    """Table 3. `measured[method]`: "seconds" per round, "flops" per update, "examples"."""
    figure, axes = drawing.canvas("samples per second, relative to SFT", "", (5.6, 2.6))
    rows: list[Cells] = []
    for name, shown in NAMES.items():
        if name not in measured:
            continue
        one, speed = measured[name], relative_speed(measured, name)
        ends = [[speed.estimate - speed.low], [speed.high - speed.estimate]]
        colour = drawing.SFT_COLOUR if name == "sft" else drawing.LINE_COLOUR
        bar: drawing.Style = {"color": colour, "error_kw": {"ecolor": drawing.INK, "capsize": 3}}
        axes.barh(shown, speed.estimate, xerr=ends, **bar)
        cells = {
            "method": shown,
            "samples/s": f"{one['examples'] / float(np.median(one['seconds'])):.1f}",
            "relative": f"{speed.estimate:.3f}",
            "95 %": RELATIVE.interval(None if name == "sft" else speed),
            "FLOPs of an update": f"{one['flops']:.3e}",
        }
        papers = relative_speeds().items()
        rows.append(cells | {f"paper: {group}": f"{each[shown]:.3f}" for group, each in papers})
    axes.invert_yaxis()
    rounds = len(next(iter(measured.values()))["seconds"])
    caption = (
        f"Median of {rounds} rounds; in each, the methods take turns to make one update on the "
        f"same examples, in one process. Measured on {place}. The paper measured on A100 and H100 "
        "GPUs, so its ratios are for other machines and models."
    )
    title = "Training speed relative to SFT"
    return Drawn("efficiency", title, caption, figure, table(rows))
