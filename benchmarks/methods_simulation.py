"""How often a `methods` study calls arms different from SFT that are truly equal to it.

`python -m benchmarks.methods_simulation [RUNS [FILE.json]]` plays whole studies: the design asks
for trials, scores are drawn around one truth, and the report's own test compares the arms. The
residual standard deviation is 1, and each seed shifts all arms by a common effect of 3.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
from scipy import stats

from sweeps.config.study_config import TUNED_RATIOS, StudyConfig
from sweeps.report.arm_comparison import ALPHA
from sweeps.report.arms import Arm, Setting, arm
from sweeps.report.intervals import dunnett
from sweeps.report.methods_page import versus_sft
from sweeps.report.trial_row import TrialRow
from sweeps.search.design import DERIVED, DesignPoint, Plan
from sweeps.search.fixed_designs import MethodsDesign

SEEDS, TUNING_SEEDS, SEED_EFFECT, DROP_NOISE = 5, 1, 3.0, 0.5
COMBINATIONS = ((1, 1e-3), (1, 3e-3))
ARMS = ("drop_trivial", "hft", "random", "gmt")


@final
@dataclass(frozen=True)
class Rates:
    """Of `runs` studies: the shares in which GMT, or any arm, is called different from SFT, and
    GMT's mean lead over SFT in residual standard deviations."""

    what: str
    runs: int
    gmt: float
    any_arm: float
    any_arm_upper: float
    lead: float


def played(random: np.random.Generator, item_luck: float) -> list[TrialRow]:
    """The trials of one study. `item_luck`: the standard deviation of what the validation items,
    which all trials share, add to each method at each ratio."""
    design = MethodsDesign(
        Plan(0, SEEDS, TUNING_SEEDS, 2, COMBINATIONS), StudyConfig().arm_ratios(TUNED_RATIOS)
    )
    rows: list[TrialRow] = []
    shifts: dict[int, float] = {}
    luck: dict[tuple[str, float], float] = {}
    models: dict[tuple[int, int, float], float] = {}
    done: set[DesignPoint] = set()
    while missing := [point for point in design.points(rows) if point not in done]:
        done.update(missing)
        for point in missing:
            shift = shifts.setdefault(point.seed, SEED_EFFECT * random.standard_normal())
            mine = luck.setdefault(
                (point.method, point.mask_ratio), item_luck * random.standard_normal()
            )
            model = (point.seed, point.accumulation_interval, point.learning_rate)
            own = random.standard_normal()
            if point.method in DERIVED:
                own = models.get(model, 0.0) + DROP_NOISE * own
            elif point.method == "sft":
                models[model] = own
            rows.append(_row(point, shift + mine + own, len(rows)))
    return rows


def _row(point: DesignPoint, score: float, number: int) -> TrialRow:
    return TrialRow(
        number=number,
        key=str(number),
        state="finished",
        score=score,
        step=1,
        steps=1,
        seconds=1.0,
        **asdict(point),
    )


def _arms(rows: list[TrialRow]) -> list[Arm]:
    """The replicates of each method, at whatever ratio the design chose."""
    found = {}
    for method in ("sft", *ARMS):
        [ratio] = {r.mask_ratio for r in rows if r.method == method and r.stage == "replicate"}
        found[method] = arm(Setting(method, ratio), rows, method)
    return list(found.values())


def tuned(random: np.random.Generator, item_luck: float) -> list[Arm]:
    """The arms of a study that tunes each ratio on seeds of its own."""
    return _arms(played(random, item_luck))


def picked(random: np.random.Generator, ratios: int) -> list[Arm]:
    """The arms if GMT's ratio is the best of several on the replicates that then judge it."""
    shifts = SEED_EFFECT * random.standard_normal(SEEDS)
    drawn = shifts + random.standard_normal((len(ARMS) + ratios, SEEDS))
    best = max(drawn[len(ARMS) :].tolist(), key=np.mean)
    sft = drawn[0]
    drawn[1] = sft + DROP_NOISE * (drawn[1] - shifts)
    scores = [*drawn[: len(ARMS)].tolist(), best]
    names = ("sft", *ARMS)
    return [Arm(n, tuple(x), tuple(range(SEEDS))) for n, x in zip(names, scores, strict=True)]


def rates(what: str, studies: Iterable[list[Arm]]) -> Rates:
    """What the report says of these studies, all of them flat."""
    gmt, others, leads = [], [], []
    for arms in studies:
        found = versus_sft([*arms[:1], *arms[2:]], arms[1:2], arms[0], margin=1.0)
        different = {name for name, one in found.items() if one.low > 0 or one.high < 0}
        gmt.append("gmt" in different)
        others.append(bool(different))
        leads.append(found["gmt"].difference)
    bounds = stats.binomtest(sum(others), len(others)).proportion_ci(0.9, method="exact")
    share, any_share, lead = (float(np.mean(each)) for each in (gmt, others, leads))
    return Rates(what, len(others), share, any_share, float(bounds.high), lead)


def nominal() -> float:
    """How often one trained arm is called different, at the simultaneous level of all."""
    trained = len(ARMS) - 1
    df, level = trained * (SEEDS - 1), ALPHA * trained / len(ARMS)
    return 2.0 * float(stats.t.sf(dunnett(1.0 - level, (SEEDS,) * trained, SEEDS, df), df))


def run(runs: int, seed: int = 0) -> list[Rates]:
    """All cases."""
    random = np.random.default_rng(seed)
    cases: dict[str, Callable[[], list[Arm]]] = {
        "tuned on seeds of its own": lambda: tuned(random, 0.0),
        "the same, items favour some arms by 0.5 SD": lambda: tuned(random, 0.5),
        "GMT: the best of 4 ratios on the replicates": lambda: picked(random, 4),
        "GMT: the best of 11 ratios on the replicates": lambda: picked(random, 11),
    }
    return [rates(what, (draw() for _ in range(runs))) for what, draw in cases.items()]


def main(arguments: Sequence[str]) -> None:
    """Print the table, and save the rates as JSON."""
    found = run(int(arguments[0]) if arguments else 2000)
    print(f"nominal: {nominal():.4f} for GMT, {ALPHA} for any arm\n")
    print("| ratio | studies | GMT different | any arm different | 95 % bound | GMT's lead |")
    print("|---|---|---|---|---|---|")
    for r in found:
        shares = f"{r.gmt:.4f} | {r.any_arm:.4f} | {r.any_arm_upper:.4f} | {r.lead:+.2f} SD"
        print(f"| {r.what} | {r.runs} | {shares} |")
    if len(arguments) > 1:
        tree = {"nominal": nominal(), "rates": [asdict(r) for r in found]}
        Path(arguments[1]).write_text(json.dumps(tree, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
