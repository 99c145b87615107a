"""Build report pages: figures in the report's style, HTML parts, and the page around them.

A page is one self-contained file, legible on a phone, in dark or light mode. Figures are drawn
without a display or pyplot, and saved as PNG or SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Small in inches, so that the text is still legible on a phone, 360 pixels wide.
SIZE_INCHES = (5.6, 4.4)
DPI = 160
INK, GREY, RULE = "#1f2933", "#8895a7", "#e4e7eb"
SFT_COLOUR, LINE_COLOUR, BAND = "#c2410c", "#334e68", "#f3c9b5"
COLOURS = "viridis"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# In a page, the colours of text and lines follow its light or dark scheme.
_THEMED = {
    INK: "ink",
    RULE: "rule",
    SFT_COLOUR: "sft",
    LINE_COLOUR: "line",
    BAND: "band",
    GREY: "soft",
    "#ffffff": "paper",
}


def canvas(
    x_label: str, y_label: str, size: tuple[float, float] = SIZE_INCHES
) -> tuple[Figure, Axes]:
    """A figure of this size in inches with labelled axes."""
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.set_xlabel(x_label, fontsize=12, color=INK)
    axes.set_ylabel(y_label, fontsize=12, color=INK)
    axes.tick_params(labelsize=11, colors=INK, length=3)
    axes.grid(visible=True, color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GREY)
    return figure, axes


def legend(figure: Figure, handles: Sequence[object], columns: int = 4) -> None:
    """A legend above the axes, where it hides no points."""
    figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=min(columns, len(handles)),
        fontsize=10,
        frameon=False,
        handletextpad=0.4,
        columnspacing=1.1,
        labelcolor=INK,
    )


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page; `name` makes ids unique within the page."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # The page sets the width; the view box keeps the proportions.
    text = re.sub(r'<svg (.*?)width="[^"]*"', r"<svg \1", text, count=1, flags=re.S)
    text = re.sub(r'<svg (.*?)height="[^"]*"', r"<svg \1", text, count=1, flags=re.S)
    text = text.replace("'DejaVu Sans'", "system-ui")
    for colour, variable in _THEMED.items():
        text = text.replace(f": {colour}", f": var(--{variable})")
    return text


NO_VALUE = "\u2013"


@final
@dataclass(frozen=True)
class Drawn:
    """A figure with its caption and a table of its numbers; `name` is used for file names.

    Without a figure, the caption says what is missing.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    table: str = ""


def page(title: str, parts: Iterable[str]) -> str:
    """The complete HTML page; it loads nothing from elsewhere."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n"
        "<body><main>\n" + "\n".join(filter(None, parts)) + "\n</main></body></html>\n"
    )


def section(title: str, body: str, kind: str = "") -> str:
    """A titled box; `body` is HTML."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<section{attribute}><h2>{escape(title)}</h2>{body}</section>"


def drawn(part: Drawn) -> str:
    """A figure's box: picture, caption, and its numbers in a collapsed table."""
    caption = escape(part.caption)
    if part.figure is None:
        return section(part.title, f'<p class="missing">{caption}</p>{part.table}')
    numbers = f"<details><summary>Numbers</summary>{part.table}</details>" if part.table else ""
    return section(
        part.title,
        f'<figure role="img" aria-label="{escape(part.title)}">{svg(part.figure, part.name)}'
        f"<figcaption>{caption}</figcaption></figure>{numbers}",
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], best: str | None = None) -> str:
    """A table that scrolls sideways; the row whose first cell is `best` is highlighted."""
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


def cards(items: Iterable[tuple[str, str, str, str]]) -> str:
    """Key numbers side by side: (kind, label, value, note)."""
    boxes = "".join(
        f'<div class="card {kind}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
        for kind, label, value, note in items
    )
    return f'<div class="cards">{boxes}</div>'


def notes(title: str, lines: Iterable[str]) -> str:
    """A box of caveats."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return section(title, f"<ul>{items}</ul>", "caveat")


def reproduction(commands: Sequence[str], config_yaml: str) -> str:
    """How to run it again: the commands and the resolved configuration."""
    lines = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return section(
        "Run it again",
        f"{lines}<details><summary>Resolved configuration</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>",
    )


def render(title: str, lead: str, part: Drawn, config_yaml: str, lines: list[str]) -> str:
    """The page of a study with one figure: title, cost, the figure and caveats."""
    return page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="lead">{escape(lead)}</p>',
            drawn(part),
            notes("What this report does not say", lines) if lines else "",
            reproduction((), config_yaml),
        ],
    )
