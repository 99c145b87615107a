"""The paper's Table 3: samples per second and FLOPs of each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sweeps.report.arms import Interval
from sweeps.report.page import INK, LINE_COLOUR, SFT_COLOUR, Drawn, canvas, table
from sweeps.report.published import SAMPLES_PER_SECOND

NAMES = {"sft": "SFT", "random": "Random Mask", "gmt": "GMT"}
RESAMPLES = 4000


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


def efficiency(measured: Mapping[str, Mapping[str, Any]], place: str) -> Drawn:
    """Table 3. `measured[method]`: "seconds" per round, "flops" per update, "examples"."""
    title = "Training speed relative to SFT"
    figure, axes = canvas("samples per second, relative to SFT", "", (5.6, 2.6))
    names = [name for name in NAMES if name in measured]
    rows = []
    for index, name in enumerate(reversed(names)):
        speed = relative_speed(measured, name)
        axes.barh(index, speed.estimate, color=SFT_COLOUR if name == "sft" else LINE_COLOUR)
        ends = [[speed.estimate - speed.low], [speed.high - speed.estimate]]
        axes.errorbar(speed.estimate, index, xerr=ends, color=INK, capsize=3)
    axes.set_yticks(range(len(names)), [NAMES[name] for name in reversed(names)])
    for name in names:
        one, speed = measured[name], relative_speed(measured, name)
        rate = one["examples"] / float(np.median(one["seconds"]))
        published = [f"{p[name] / p['sft']:.3f}" for p in SAMPLES_PER_SECOND.values()]
        rows.append(
            [
                NAMES[name],
                f"{rate:.1f}",
                f"{speed.estimate:.3f}",
                f"{speed.low:.3f} to {speed.high:.3f}",
                f"{one['flops']:.3e}",
                *published,
            ]
        )
    rounds = len(next(iter(measured.values()))["seconds"])
    heads = ["method", "samples/s", "relative", "95 %", "FLOPs of an update"]
    heads += [f"paper: {name}" for name in SAMPLES_PER_SECOND]
    caption = (
        f"Median of {rounds} rounds; in each, the methods take turns to make one update on the "
        f"same examples, in one process. Measured on {place}. The paper measured on A100 and H100 "
        "GPUs, so its ratios are for other machines and models."
    )
    return Drawn("efficiency", title, caption, figure, table(heads, rows))
