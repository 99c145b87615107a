"""The report page of a sensitivity study."""

from __future__ import annotations

from html import escape

from sweeps.report.page import Drawn, cards, drawn, notes, page, reproduction, section, table
from sweeps.report.sensitivity import UNEQUAL, SensitivityData, SensitivityResult, headline
from sweeps.report.sensitivity_figures import curve, front, importance, slices, verdicts
from sweeps.report.trial_row import TrialRow, stopped_controls


def figures(data: SensitivityData, result: SensitivityResult) -> list[Drawn]:
    """All figures, the curve first."""
    return [
        curve(data, result),
        verdicts(data, result),
        slices(data),
        importance(data),
        front(data, result),
    ]


def render(data: SensitivityData, result: SensitivityResult, parts: list[Drawn]) -> str:
    """The whole page; the verdict, its cost and the curve come first."""
    title = f"{data.name}: {data.domain}, sensitivity to the mask ratio"
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="verdict">{escape(headline(data, result))}</p>',
            f'<p class="lead">{escape(cost(data.rows))}</p>',
            drawn(parts[0]),
            _cards(data, result),
            drawn(parts[1]),
            rescored(data, result),
            *(drawn(part) for part in parts[2:]),
            notes("What this report does not say", caveats(data, result)),
            reproduction(data.commands, data.config_yaml),
        ],
    )


def cost(rows: tuple[TrialRow, ...]) -> str:
    """The cost of the trials, preceded by a note if a control was stopped."""
    minutes = sum(row.seconds for row in rows) / 60
    failed = sum(row.state == "failed" for row in rows)
    ended = sum(row.state == "finished" for row in rows)
    lost = f", {failed} failed" if failed else ""
    told = f"Cost: {ended} trials finished{lost}, {minutes:.1f} trial minutes."
    return stopped_controls(rows) + told


def _cards(data: SensitivityData, result: SensitivityResult) -> str:
    if result.best is None:
        return ""
    seeds = sorted({one.n for one in result.arms})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    needed = "> 200" if result.seeds_needed is None else str(result.seeds_needed)
    return cards(
        [
            ("", "Seeds per ratio", count, "replicates, same for all"),
            ("", "Needed if flat", needed, "for 80 % power"),
            ("", "Margin", f"\u00b1{data.margin:g}", data.declared),
            (
                "",
                "Spread of a score",
                f"{result.best.spread.sd:.{data.label.decimals}f}",
                f"SD without the seed effect shared by all ratios (SD {result.blocks:.2g})",
            ),
        ]
    )


def rescored(data: SensitivityData, result: SensitivityResult) -> str:
    """The winner against SFT, on seeds and items that were not used to select it."""
    title, won, label = "The best ratio again, on fresh seeds", result.rescored, data.label
    if won is None:
        return section(title, "<p>No fresh seeds have finished yet.</p>")
    first = (
        f"Mask ratio {won.ratio:g} was selected with a score of {label.number(won.selected)}; on "
        f"fresh seeds it scores {label.number(won.fresh_mean)}."
    )
    text = f"<p>{escape(first)}</p>"
    if won.fresh is not None:
        one = won.fresh
        resolved = one.low > 0 or one.high < 0
        said = "" if resolved else " This study cannot distinguish the two."
        sentence = (
            f"Minus SFT on the same fresh seeds: {label.difference(one.difference)} "
            f"(95 % {label.span(one.low, one.high, signed=True)}).{said}"
        )
        text += f"<p>{escape(sentence)}</p>"
    rows = [
        [name, label.difference(i.estimate), label.span(i.low, i.high, signed=True), str(count)]
        for name, i, count in won.test
    ]
    if not rows:
        return section(title, text + "<p>The test items have not been read.</p>")
    heads = ["test items of", "GMT \u2212 SFT", "95 %, questions resampled", "items"]
    note = (
        "Test items are read once, at the end. This interval covers other questions for the same "
        "models; that of the fresh seeds covers other seeds."
    )
    return section(title, text + table(heads, rows) + f'<p class="small">{note}</p>')


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
    if result.spread_p < UNEQUAL:
        lines.append(
            f"The spread between seeds differs between ratios (Brown-Forsythe p = "
            f"{result.spread_p:.2g}): with one pooled spread, 'different' can be wrong about "
            "twice as often as the nominal 5 %."
        )
    if data.label.sign < 0:
        lines.append(
            "Bits per byte measure how well the reference text is predicted, not whether an "
            "answer is right."
        )
    return lines
