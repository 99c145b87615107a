"""The report page of a sensitivity study."""

from __future__ import annotations

from dataclasses import replace

from sweeps.report.against_sft import on_test
from sweeps.report.intervals import spread_caveat
from sweeps.report.page import Drawn, Page
from sweeps.report.sensitivity import SensitivityData, SensitivityResult, headline
from sweeps.report.sensitivity_figures import figures
from sweeps.report.trial_row import TrialRow, stopped_controls


def page(data: SensitivityData, result: SensitivityResult) -> Page:
    """The whole page; the verdict, its cost and the curve come first."""
    return Page(
        f"{data.name}: {data.domain}, sensitivity to the mask ratio",
        [(headline(data, result), cost(data.rows))],
        {"": figures(data, result)},
        data.config_yaml,
        _cards(data, result),
        [rescored(data, result)],
        caveats(data, result),
    )


def cost(rows: tuple[TrialRow, ...]) -> str:
    """The cost of the trials, preceded by a note if a control was stopped."""
    minutes = sum(row.seconds for row in rows) / 60
    failed = sum(row.state == "failed" for row in rows)
    ended = sum(row.state == "finished" for row in rows)
    lost = f", {failed} failed" if failed else ""
    taken = sum(row.state == "finished" and not row.seconds for row in rows)
    shared = f" ({taken} of them trained in another study)" if taken else ""
    told = f"Cost: {ended} trials finished{shared}{lost}, {minutes:.1f} trial minutes."
    return stopped_controls(rows) + told


def _cards(data: SensitivityData, result: SensitivityResult) -> list[tuple[str, str, object, str]]:
    if result.best is None:
        return []
    seeds = sorted({one.n for one in result.arms})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    spread = f"{result.best.spread.sd:.{data.label.decimals}f}"
    shared = f"SD without the seed effect shared by all ratios (SD {result.blocks:.2g})"
    return [
        ("", "Seeds per ratio", count, "replicates, same for all"),
        ("", "Needed if flat", result.seeds_needed or "> 200", "for 80 % power"),
        ("", "Margin", f"\u00b1{data.margin:g}", data.declared),
        ("", "Spread of a score", spread, shared),
    ]


def rescored(data: SensitivityData, result: SensitivityResult) -> Drawn:
    """The winner against SFT, on seeds and items that were not used to select it."""
    title, won, label = "The best ratio again, on fresh seeds", result.rescored, data.label
    if won is None:
        return Drawn("", title, "No fresh seeds have finished yet.")
    text = [
        f"Mask ratio {won.ratio:g} was selected with a score of {label.number(won.selected)}; on "
        f"fresh seeds it scores {label.number(won.fresh_mean)}."
    ]
    if (one := won.fresh) is not None:
        resolved = one.low > 0 or one.high < 0
        text.append(
            f"Minus SFT on the same fresh seeds: {label.difference(one.difference)} "
            f"(95 % {label.interval(one, signed=True)})."
            f"{'' if resolved else ' This study cannot distinguish the two.'}"
        )
    part = on_test(title, label, {f"mask ratio {won.ratio:g}": won.test})
    return replace(part, text=tuple(text))


def caveats(data: SensitivityData, result: SensitivityResult) -> list[str]:
    """Conclusions that the study does not support."""
    lines = [
        "Intervals and verdicts hold for other seeds of the same model, data and recipe, not for "
        "other models or data.",
        "The verdict compares every ratio with the best one of this study. The lead of the best "
        "one is partly luck, which makes 'equivalent' harder to reach, never easier.",
        "Adding seeds until a verdict appears raises its error rate above 5 %: plan the number of "
        "seeds first.",
    ]
    lines += spread_caveat(result.spread_p)
    if data.label.sign < 0:
        lines.append(
            "Bits per byte measure how well the reference text is predicted, not whether an "
            "answer is right."
        )
    return lines
