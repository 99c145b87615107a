"""Write a study's report to a folder: page, figures, trials and results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, final

from sweeps.report.drawing import png
from sweeps.report.page import Page
from sweeps.report.trial_row import TrialRow, other_parameters

RESULTS = "results.json"


@final
@dataclass(frozen=True)
class ReportPaths:
    """`html` is the complete page; `more`: every figure (the first as report.png, for slides), the
    trials as CSV, and the results as JSON."""

    html: Path
    more: tuple[Path, ...] = ()

    def all(self) -> list[Path]:
        """All files, the page first."""
        return [self.html, *self.more]


def write_files(
    folder: Path,
    page: Page,
    rows: tuple[TrialRow, ...] | None = None,
    results: Mapping[str, Any] | None = None,
) -> ReportPaths:
    """Write a page, its figures as PNG, trials and results, replacing older ones.

    A figure's file has its name and its heading's; the first one without heading is report.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    html, more = folder / "report.html", list[Path]()
    html.write_text(page.html(), encoding="utf-8")
    for heading, parts in page.figures.items():
        for index, part in enumerate(parts):
            name = f"{heading}_{part.name}" if heading else part.name if index else "report"
            if part.figure is not None:
                more.append(folder / f"{name.replace(' ', '_')}.png")
                more[-1].write_bytes(png(part.figure))
    if rows is not None:
        more.append(folder / "trials.csv")
        more[-1].write_text(trials_csv(rows), encoding="utf-8", newline="")
    if results is not None:
        more.append(folder / RESULTS)
        more[-1].write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return ReportPaths(html, tuple(more))


def trials_csv(rows: tuple[TrialRow, ...]) -> str:
    """All trials in order, one per line: fixed columns, other parameters, metrics by name."""
    beside = ["metrics", "others", "violated", "origin", "scores"]
    if not any(row.parent is not None for row in rows):
        beside += ["parent", "parent_step"]
    if not any(row.queued for row in rows):
        beside += ["queued"]
    fixed = [f.name for f in fields(TrialRow) if f.name not in beside]
    others, metrics = (
        other_parameters(rows),
        sorted({name for row in rows for name in row.metrics}),
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ends = [n for n in ("violated", "origin", "scores") if any(getattr(row, n) for row in rows)]
    writer.writerow([*fixed, *others, *metrics, *ends])
    for row in sorted(rows, key=lambda row: row.number):
        values = [*(getattr(row, name) for name in fixed), *map(row.others.get, others)]
        said = {"violated": ", ".join(row.violated), "origin": row.origin}
        said["scores"] = " ".join(map(str, row.scores))
        writer.writerow([*values, *map(row.metrics.get, metrics), *map(said.get, ends)])
    return buffer.getvalue()
