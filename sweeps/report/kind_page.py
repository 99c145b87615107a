"""The report page of a study that one figure answers: methods, drops, less data, efficiency."""

from __future__ import annotations

from html import escape

from sweeps.report.page import Drawn, drawn, notes, page, reproduction


def render(title: str, lead: str, part: Drawn, config_yaml: str, lines: list[str]) -> str:
    """Title, cost, the figure with its numbers open, caveats."""
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
