"""The report page of a search: one self-contained file, legible on a phone and on paper."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from sweeps.report import replicates
from sweeps.report.page import NO_VALUE, Drawn, cards, drawn, page, reproduction, table
from sweeps.report.trial_row import (
    COUNT,
    SCORE,
    STANDARD_ERROR,
    PairedTest,
    StudyData,
    TrialRow,
    best_by_mask_ratio,
    best_first,
    p_text,
    scored,
    stopped_controls,
)

TOP_TRIALS = 10
STATES = {"finished": "finished", "stopped_early": "stopped early"}


def render(data: StudyData, score: Figure, curve: Figure, fronts: Sequence[Drawn] = ()) -> str:
    """The whole page of a search."""
    title = f"{data.name}: {data.domain}"
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="lead">{escape(_lead(data))}</p>',
            _cards(data),
            _figures(data, score, curve, fronts),
            _test_results(data),
            _best_trials(data),
            replicates.render(data),
            _caveat(data),
            reproduction(data.commands, data.config_yaml),
        ],
    )


def _lead(data: StudyData) -> str:
    counts = Counter(STATES.get(row.state, row.state) for row in data.rows)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    minutes = sum(row.seconds for row in data.rows) / 60
    noun = "trial" if len(data.rows) == 1 else "trials"
    counted = f"{len(data.rows)} {noun} ({states or 'none started'}), {minutes:.1f} trial minutes."
    short = f" Small space: {data.shortfall}." if data.shortfall else ""
    return stopped_controls(data.rows) + counted + short


def _cards(data: StudyData) -> str:
    sft = best_by_mask_ratio(data.rows).get(0.0)
    best = data.best
    items = [
        ("best", f"Best validation {data.label.text}", _score(data, best), _place(best)),
        ("sft", "Best SFT (mask ratio 0)", _score(data, sft), _place(sft)),
    ]
    if best is not None:
        method = [("", "Method", best.method, "of the best trial")]
        point = [
            *(method if len({row.method for row in data.rows}) > 1 else []),
            ("", "Mask ratio", f"{best.mask_ratio:.3g}", "gradient elements zeroed"),
            ("", "Accumulation interval", str(best.accumulation_interval), "mini-batches/update"),
            ("", "Learning rate", f"{best.learning_rate:.2e}", "of the best trial"),
        ]
        items += point
    return cards(items)


def _figures(data: StudyData, score: Figure, curve: Figure, fronts: Sequence[Drawn]) -> str:
    no_sft = 0.0 not in best_by_mask_ratio(data.rows)
    control = " No SFT trial (mask ratio 0) has finished, so there is no line." if no_sft else ""
    parts = [
        Drawn(
            "score",
            "Score against mask ratio",
            "Each mark is a finished trial: colour is the learning rate, shape the accumulation "
            "interval N. The dashed line is the best trial with mask ratio 0 (SFT). Hollow marks "
            f"were stopped early, at an earlier step.{control}",
            score,
        ),
        Drawn(
            "curve",
            "Best score so far",
            "If the line still improves at its end, more trials may find a better point.",
            curve,
        ),
        *fronts,
    ]
    return '<div class="figures">' + "".join(drawn(part) for part in parts) + "</div>"


def _test_results(data: StudyData) -> str:
    best, sft = data.test_results.get("best", {}), data.test_results.get("sft", {})
    names = sorted({key.rpartition("/")[0] for key in (*best, *sft)})
    if not names:
        return (
            "<section><h2>Test items</h2><p>Not read. They are scored once, after the search, for "
            "the best trial and the best SFT trial.</p></section>"
        )
    paired = {each.benchmark: each for each in data.paired}
    rows = [
        [
            name,
            _with_error(data, best, name),
            _with_error(data, sft, name),
            *_difference(data, paired.get(name)),
            _count(best or sft, name),
        ]
        for name in names
    ]
    if (mean := paired.get("")) is not None:
        scores = [data.label.number(mean.best), data.label.number(mean.sft)]
        rows.append(["mean of all", *scores, *_difference(data, mean), str(mean.n)])
    heads = ["benchmark", "best trial", "best SFT trial", "difference", "95 %", "McNemar's p"]
    heads.append("items")
    about = _about_the_difference(data)
    return (
        f"<section><h2>Test items, read once</h2>{table(heads, rows)}"
        f'<p class="small">Score ± one standard error over items. {about}</p></section>'
    )


def _about_the_difference(data: StudyData) -> str:
    if _is_control(data):
        return "The best trial is the best SFT trial, so there is no difference to show."
    if not data.paired:
        return "No difference is shown, because the trials have no scores on the same items."
    return (
        "The difference is paired: both trials answered the same items. Its 95 % interval is a "
        "bootstrap over items. McNemar's exact test is given if items are right or wrong. It "
        "speaks of these two models, of one seed each, not of other seeds."
    )


def _is_control(data: StudyData) -> bool:
    return data.best is not None and data.best.is_sft()


def _with_error(data: StudyData, results: Mapping[str, float], name: str) -> str:
    if f"{name}/{SCORE}" not in results:
        return NO_VALUE
    error = results.get(f"{name}/{STANDARD_ERROR}", math.nan)
    return f"{data.label.number(results[f'{name}/{SCORE}'])} ± {_number(error)}"


def _difference(data: StudyData, paired: PairedTest | None) -> list[str]:
    """The paired difference, its interval and its p-value."""
    if paired is None or _is_control(data):
        return [NO_VALUE] * 3
    return [
        data.label.difference(paired.difference),
        data.label.span(paired.low, paired.high, signed=True),
        NO_VALUE if paired.p_value is None else p_text(paired.p_value),
    ]


def _count(results: Mapping[str, float], name: str) -> str:
    count = results.get(f"{name}/{COUNT}")
    return NO_VALUE if count is None else f"{count:.0f}"


def _best_trials(data: StudyData) -> str:
    ranked = best_first(data.rows)
    methods = {row.method for row in data.rows}
    named = len(methods) > 1
    heads = [
        "trial",
        data.label.text,
        *(["method"] if named else []),
        "mask ratio",
        "N",
        "learning rate",
        "seed",
        "updates",
        "seconds",
    ]
    rows = [
        [
            str(row.number),
            _score(data, row),
            *([row.method] if named else []),
            f"{row.mask_ratio:.3g}",
            str(row.accumulation_interval),
            f"{row.learning_rate:.2e}",
            str(row.seed),
            str(row.steps),
            f"{row.seconds:.1f}",
        ]
        for row in ranked[:TOP_TRIALS]
    ]
    best = None if data.best is None else str(data.best.number)
    body = table(heads, rows, best) if rows else "<p>No trial has finished with a score yet.</p>"
    return f"<section><h2>Best trials on the validation items</h2>{body}</section>"


def _caveat(data: StudyData) -> str:
    count = len(scored(data.rows))
    return (
        '<section class="caveat"><h2>What this report does not say</h2><ul>'
        "<li>This is a search, not a sensitivity study. A sampler such as TPE tries more points "
        "where scores were high, so the samples are biased: neither the shape of the curve nor a "
        "gap between mask ratios is evidence that the mask ratio matters, or that it does not. "
        "That requires a fixed design with several seeds per point.</li>"
        f"<li>The best validation score is the highest of {count}, so it is optimistically biased "
        "(the winner's curse). Judge by the test items.</li></ul></section>"
    )


def _score(data: StudyData, row: TrialRow | None) -> str:
    return NO_VALUE if row is None or row.score is None else data.label.number(row.score)


def _place(row: TrialRow | None) -> str:
    return "no finished trial" if row is None else f"trial {row.number}, seed {row.seed}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
