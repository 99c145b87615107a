"""Writes a study's report to a folder."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweeps.report.data import StudyData
from sweeps.report.html import render
from sweeps.report.plots import best_score_so_far, png, score_against_mask_ratio

FIELDS = (
    "number",
    "key",
    "state",
    "mask_ratio",
    "accumulation_interval",
    "learning_rate",
    "seed",
    "score",
    "step",
    "steps",
    "seconds",
)


@final
@dataclass(frozen=True)
class ReportPaths:
    """`html` holds all; `png` is the score figure for slides, `csv` every trial."""

    html: Path
    png: Path
    csv: Path


def write_report(data: StudyData, folder: Path) -> ReportPaths:
    """Write report.html, report.png and trials.csv, replacing older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    score_png = png(score_against_mask_ratio(data))
    curve_png = png(best_score_so_far(data))
    paths = ReportPaths(folder / "report.html", folder / "report.png", folder / "trials.csv")
    paths.html.write_text(render(data, score_png, curve_png), encoding="utf-8")
    paths.png.write_bytes(score_png)
    paths.csv.write_text(trials_csv(data), encoding="utf-8", newline="")
    return paths


def trials_csv(data: StudyData) -> str:
    """All trials in order, one line each; metrics follow the fixed columns, sorted by name."""
    metrics = sorted({name for row in data.rows for name in row.metrics})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIELDS, *metrics])
    for row in sorted(data.rows, key=lambda row: row.number):
        fixed = [getattr(row, name) for name in FIELDS]
        writer.writerow([*fixed, *(row.metrics.get(name) for name in metrics)])
    return buffer.getvalue()
