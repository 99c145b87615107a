"""The parts of a report page: one self-contained file, legible on a phone, dark or light."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import final

from matplotlib.figure import Figure

from sweeps.report.drawing import svg

NO_VALUE = "\u2013"


@final
@dataclass(frozen=True)
class Drawn:
    """A figure with its caption and the table that says the same in numbers; `name` is a file's.

    Without a figure the caption says what is missing for one.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    table: str = ""


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page of parts in HTML; nothing is loaded from elsewhere."""
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
    """A figure's box: picture, caption, and its numbers folded away below."""
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
    """A table that scrolls sideways; the row whose first cell is `best` stands out."""
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
    """How to run it again: commands and the resolved configuration."""
    lines = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return section(
        "Run it again",
        f"{lines}<details><summary>Resolved configuration</summary>"
        f"<pre>{escape(config_yaml)}</pre></details>",
    )
