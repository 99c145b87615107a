"""The report page: one self-contained file, legible on a phone and on paper."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from sweeps.report.data import (
    COUNT,
    SCORE,
    STANDARD_ERROR,
    StudyData,
    TrialRow,
    best_by_mask_ratio,
    scored,
)

TOP_TRIALS = 10
STATES = {"finished": "finished", "stopped_early": "stopped early"}
NO_VALUE = "\u2013"


def render(data: StudyData, score_png: bytes, curve_png: bytes) -> str:
    """The whole page; images are embedded, nothing is loaded from elsewhere."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    title = f"{data.name}: {data.domain}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_lead(data))}</p>',
        _cards(data),
        _figures(data, score_png, curve_png),
        _test_results(data),
        _best_trials(data),
        _caveat(data),
        _reproduction(data),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n"
        "<body><main>\n" + "\n".join(filter(None, sections)) + "\n</main></body></html>\n"
    )


def _lead(data: StudyData) -> str:
    counts = Counter(STATES.get(row.state, row.state) for row in data.rows)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    minutes = sum(row.seconds for row in data.rows) / 60
    noun = "trial" if len(data.rows) == 1 else "trials"
    return f"{len(data.rows)} {noun} ({states or 'none begun'}), {minutes:.1f} trial minutes."


def _cards(data: StudyData) -> str:
    sft = best_by_mask_ratio(data.rows).get(0.0)
    best = data.best
    cards = [
        ("best", f"Best validation {data.metric}", _score(best), _place(best)),
        ("sft", "Best SFT (mask ratio 0)", _score(sft), _place(sft)),
    ]
    if best is not None:
        point = [
            ("", "Mask ratio", f"{best.mask_ratio:.3g}", "gradient elements zeroed"),
            ("", "Accumulation interval", str(best.accumulation_interval), "mini-batches/update"),
            ("", "Learning rate", f"{best.learning_rate:.2e}", "of the best trial"),
        ]
        cards += point
    return '<div class="cards">' + "".join(_card(*card) for card in cards) + "</div>"


def _card(kind: str, label: str, value: str, note: str) -> str:
    return (
        f'<div class="card {kind}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def _figures(data: StudyData, score_png: bytes, curve_png: bytes) -> str:
    no_sft = 0.0 not in best_by_mask_ratio(data.rows)
    control = " No SFT trial (mask ratio 0) has finished, so there is no line." if no_sft else ""
    return (
        '<div class="figures">'
        + _figure(
            "Score against mask ratio",
            score_png,
            "Each mark is a finished trial: colour is the learning rate, shape the accumulation "
            "interval N. The dashed line is the best trial with mask ratio 0 (SFT). Hollow marks "
            f"were stopped early, at an earlier step.{control}",
        )
        + _figure(
            "Best score so far",
            curve_png,
            "If the line still rises at its end, more trials may find a better point.",
        )
        + "</div>"
    )


def _figure(title: str, image: bytes, caption: str) -> str:
    encoded = base64.b64encode(image).decode("ascii")
    return (
        f"<section><h2>{escape(title)}</h2><figure>"
        f'<img alt="{escape(title)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure></section>"
    )


def _test_results(data: StudyData) -> str:
    best, sft = data.test_results.get("best", {}), data.test_results.get("sft", {})
    names = sorted({key.rpartition("/")[0] for key in (*best, *sft)})
    if not names:
        return (
            "<section><h2>Test items</h2><p>Not read. They are scored once, after the search, for "
            "the best trial and the best SFT trial.</p></section>"
        )
    rows = [
        [
            name,
            _with_error(best, name),
            _with_error(sft, name),
            _difference(best, sft, name),
            _count(best or sft, name),
        ]
        for name in names
    ]
    heads = ["benchmark", "best trial", "best SFT trial", "difference", "items"]
    return (
        f"<section><h2>Test items, read once</h2>{_table(heads, rows)}"
        '<p class="small">Score ± one standard error over items. The difference counts the two '
        "as independent; they answered the same items, so its error is likely too wide.</p>"
        "</section>"
    )


def _with_error(results: Mapping[str, float], name: str) -> str:
    if f"{name}/{SCORE}" not in results:
        return NO_VALUE
    error = results.get(f"{name}/{STANDARD_ERROR}", math.nan)
    return f"{_number(results[f'{name}/{SCORE}'])} ± {_number(error)}"


def _difference(best: Mapping[str, float], sft: Mapping[str, float], name: str) -> str:
    score, error = f"{name}/{SCORE}", f"{name}/{STANDARD_ERROR}"
    if score not in best or score not in sft:
        return NO_VALUE
    both = math.hypot(best.get(error, math.nan), sft.get(error, math.nan))
    return f"{best[score] - sft[score]:+.3f} ± {_number(both)}"


def _count(results: Mapping[str, float], name: str) -> str:
    count = results.get(f"{name}/{COUNT}")
    return NO_VALUE if count is None else f"{count:.0f}"


def _best_trials(data: StudyData) -> str:
    ranked = sorted(scored(data.rows), key=lambda row: (-(row.score or 0.0), row.number))
    heads = [
        "trial",
        data.metric,
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
            _score(row),
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
    table = _table(heads, rows, best) if rows else "<p>No trial has finished with a score yet.</p>"
    return f"<section><h2>Best trials on the validation items</h2>{table}</section>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], best: str | None = None) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        ('<tr class="best">' if best is not None and row[0] == best else "<tr>")
        + "".join(f"<td>{escape(text)}</td>" for text in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _caveat(data: StudyData) -> str:
    count = len(scored(data.rows))
    return (
        '<section class="caveat"><h2>What this report does not say</h2><ul>'
        "<li>It is a search, not a sensitivity study. A sampler such as TPE tries more points "
        "where scores were high, so the samples are biased: neither the shape of the curve nor a "
        "gap between mask ratios shows that the mask ratio matters, or that it does not. "
        "That takes a fixed design with several seeds per point.</li>"
        f"<li>The best validation score is the highest of {count}: part of its lead is chance "
        "(the winner's curse). Judge by the test items.</li></ul></section>"
    )


def _reproduction(data: StudyData) -> str:
    commands = ""
    if data.commands:
        commands = f"<pre>{escape(chr(10).join(data.commands))}</pre>"
    return (
        f"<section><h2>Run it again</h2>{commands}"
        f"<details><summary>Resolved configuration</summary><pre>{escape(data.config_yaml)}</pre>"
        "</details></section>"
    )


def _score(row: TrialRow | None) -> str:
    return NO_VALUE if row is None or row.score is None else _number(row.score)


def _place(row: TrialRow | None) -> str:
    return "no finished trial" if row is None else f"trial {row.number}, seed {row.seed}"


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
