"""Check verdicts on curves with known truth: `python -m benchmarks.verdict_simulation`.

It runs the code that studies use, on normal scores with standard deviation 1. Error rates come
with their exact one-sided 95 % upper bounds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweeps.report.arm_comparison import (
    ALPHA,
    Comparisons,
    against_best,
    against_control,
    flat_power,
)
from sweeps.report.arms import Arm
from sweeps.report.intervals import simultaneous_intervals, tukey

Array = NDArray[np.float64]
ARMS, MARGIN, DROP, BLOCKS = 12, 2.0, 4.0, 3.0
"""The paper's twelve ratios; margin, drop and seed effect in standard deviations."""


@final
@dataclass(frozen=True)
class Rate:
    """How often something happened. `promised`: the theoretical value, if there is one."""

    what: str
    seeds: int
    happened: int
    runs: int
    promised: str

    @property
    def rate(self) -> float:
        """The fraction of runs."""
        return self.happened / self.runs

    def bound(self, side: str) -> float:
        """The exact one-sided 95 % bound of the true rate, "upper" or "lower"."""
        exact = stats.binomtest(self.happened, self.runs).proportion_ci(0.9, method="exact")
        return float(exact.high if side == "upper" else exact.low)


Event = Callable[[list[Arm]], bool]


def run(runs: int, seeds: Sequence[int] = (3, 5, 8, 12), seed: int = 0) -> list[Rate]:
    """All checks at each number of seeds."""
    random = np.random.default_rng(seed)
    return [rate for count in seeds for rate in _checks(runs, count, random)]


def _checks(runs: int, seeds: int, random: np.random.Generator) -> list[Rate]:
    flat, at_most = np.zeros(ARMS), "at most 0.05"
    one_low, many_low, dropped = (_lowered(1), _lowered(ARMS // 2), 2 * _lowered(2))
    power, flat_rate = drop_power(ARMS, seeds, DROP), flat_power(ARMS, seeds, MARGIN)
    # Different: an interval excludes zero, including those of equivalent arms.
    checks: list[tuple[str, Array, Event, str]] = [
        ("flat: an arm called different from the best", flat, _any_different, at_most),
        ("flat, unequal spread: an arm called different", flat, _any_different, "none made"),
        ("flat: an arm called different from SFT", flat, _differs_from_sft, at_most),
        ("one arm at the margin: it is called equivalent", one_low, _equal_to_best(1), at_most),
        ("half at the margin: one is called equivalent", many_low, _equal_to_best(6), at_most),
        ("one arm at the margin: equivalent to SFT", one_low, _last_equals_sft, at_most),
        ("flat: called equivalent as a whole", flat, _all_equal, f"{flat_rate:.2f}"),
        ("drop of 4 SD: the last arm is different", dropped, _last_differs, f">= {power:.2f}"),
        ("means all inside their intervals", flat, _covered, "0.95"),
        (
            "differences from SFT all inside",
            flat,
            lambda arms: not _differs_from_sft(arms),
            "0.95",
        ),
    ]
    rates = []
    for what, truth, event, promised in checks:
        sd = np.where(dropped < 0, 2.0, 1.0) if "unequal" in what else np.ones(ARMS)
        happened = sum(event(_draw(truth, sd, seeds, random)) for _ in range(runs))
        rates.append(Rate(what, seeds, happened, runs, promised))
    return rates


def drop_power(arms: int, seeds: int, drop_in_sd: float) -> float:
    """A lower bound on the chance that a drop of one arm below the others is called different.

    It compares with any arm of the plateau. The verdict compares with the best of them, which lies
    higher. Uses a noncentral t at Tukey's critical value.
    """
    df = (arms - 1) * (seeds - 1)
    shift = drop_in_sd / math.sqrt(2.0 / seeds)
    return float(stats.nct.sf(tukey(1.0 - ALPHA, arms, df), df, shift))


def _lowered(count: int) -> Array:
    """The last `count` arms lie at the margin below the others."""
    return np.where(np.arange(ARMS) >= ARMS - count, -MARGIN, 0.0)


def _draw(truth: Array, sd: Array, seeds: int, random: np.random.Generator) -> list[Arm]:
    scores = truth[:, None] + sd[:, None] * random.standard_normal((len(truth), seeds))
    scores += BLOCKS * random.standard_normal(seeds)  # the seed effect, shared by all arms
    names = tuple(range(seeds))
    return [Arm(str(i), tuple(row), names) for i, row in enumerate(scores.tolist())]


def _verdicts(result: Comparisons) -> dict[str, str]:
    return {arm.name: arm.verdict for arm in result.arms}


def _any_different(arms: list[Arm]) -> bool:
    return any(arm.high < 0 for arm in against_best(arms, MARGIN).arms)


def _differs_from_sft(arms: list[Arm]) -> bool:
    return any(arm.low > 0 or arm.high < 0 for arm in against_control(arms, arms[0], MARGIN).arms)


def _equal_to_best(last: int) -> Event:
    def event(arms: list[Arm]) -> bool:
        found = _verdicts(against_best(arms, MARGIN))
        return any(found.get(arm.name) == "equivalent" for arm in arms[-last:])

    return event


def _last_equals_sft(arms: list[Arm]) -> bool:
    return _verdicts(against_control(arms, arms[0], MARGIN))[arms[-1].name] == "equivalent"


def _all_equal(arms: list[Arm]) -> bool:
    return against_best(arms, MARGIN).verdict == "equivalent"


def _last_differs(arms: list[Arm]) -> bool:
    return _verdicts(against_best(arms, MARGIN)).get(arms[-1].name) == "different"


def _covered(arms: list[Arm]) -> bool:
    intervals = simultaneous_intervals(arms)
    shift = sum(one.estimate for one in intervals) / len(intervals)
    return all(one.low <= shift <= one.high for one in intervals)


def table(rates: Sequence[Rate]) -> str:
    """The rates as a Markdown table."""
    lines = ["| what | seeds | rate | 95 % bounds | promised |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.what} | {r.seeds} | {r.rate:.4f} | {r.bound('lower'):.4f} to "
        f"{r.bound('upper'):.4f} | {r.promised} |"
        for r in rates
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> None:
    """`[RUNS [FILE.json]]`: print the table, and save the rates as JSON."""
    rates = run(int(arguments[0]) if arguments else 20_000)
    print(table(rates))
    if len(arguments) > 1:
        tree = [asdict(r) | {"rate": r.rate, "upper": r.bound("upper")} for r in rates]
        Path(arguments[1]).write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
