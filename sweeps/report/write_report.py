"""Write a study's report to a folder: page, figures, trials and results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from sweeps.report.page import Drawn, png
from sweeps.report.pareto_front import search_fronts
from sweeps.report.search_figures import best_score_so_far, score_against_mask_ratio
from sweeps.report.search_page import render
from sweeps.report.sensitivity import SensitivityData, analyse, headline
from sweeps.report.sensitivity_page import figures
from sweeps.report.sensitivity_page import render as render_sensitivity
from sweeps.report.trial_row import StudyData, TrialRow

FIELDS = (
    "number",
    "key",
    "state",
    "method",
    "mask_ratio",
    "accumulation_interval",
    "learning_rate",
    "seed",
    "stage",
    "train_fraction",
    "score",
    "step",
    "steps",
    "seconds",
)


@final
@dataclass(frozen=True)
class ReportPaths:
    """`html` is the complete page, `png` the first figure (for slides), `csv` every trial.

    `more`: the other figures, and the results as JSON.
    """

    html: Path
    png: Path
    csv: Path
    more: tuple[Path, ...] = ()

    def all(self) -> list[Path]:
        """All files, the page first."""
        return [self.html, self.png, self.csv, *self.more]


def write_report(data: StudyData, folder: Path) -> ReportPaths:
    """Write a search's report.html, report.png and trials.csv, replacing older ones."""
    score, curve = score_against_mask_ratio(data), best_score_so_far(data)
    fronts = search_fronts(data)
    parts = [Drawn("report", "", "", score), *fronts]
    rows = (*data.rows, *data.replicates)
    return write_files(folder, render(data, score, curve, fronts), parts, rows)


def write_sensitivity(data: SensitivityData, folder: Path) -> ReportPaths:
    """Write a sensitivity study's page, figures, trials and results."""
    result = analyse(data)
    parts = figures(data, result)
    results = {
        "name": data.name,
        "domain": data.domain,
        "headline": headline(data, result),
        "claim": result.claim(),
        "declared": data.declared,
        **asdict(result),
        "importance": [[name, asdict(share)] for name, share in data.importance],
    }
    html = render_sensitivity(data, result, parts)
    return write_files(folder, html, parts, data.rows, results)


def write_files(
    folder: Path,
    html: str,
    parts: Sequence[Drawn],
    rows: tuple[TrialRow, ...],
    results: Mapping[str, Any] | None = None,
) -> ReportPaths:
    """Write a page, its figures as PNG (the first as report.png), trials and results."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "report.html", folder / "report.png", folder / "trials.csv"]
    paths[0].write_text(html, encoding="utf-8")
    paths[2].write_text(trials_csv(rows), encoding="utf-8", newline="")
    more = []
    for index, part in enumerate(parts):
        if part.figure is not None:
            path = paths[1] if index == 0 else folder / f"{part.name}.png"
            path.write_bytes(png(part.figure))
            more += [path] if index else []
    if results is not None:
        more.append(folder / "results.json")
        more[-1].write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return ReportPaths(paths[0], paths[1], paths[2], tuple(more))


def trials_csv(rows: tuple[TrialRow, ...]) -> str:
    """All trials in order, one per line; metrics follow the fixed columns, sorted by name."""
    metrics = sorted({name for row in rows for name in row.metrics})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIELDS, *metrics])
    for row in sorted(rows, key=lambda row: row.number):
        fixed = [getattr(row, name) for name in FIELDS]
        writer.writerow([*fixed, *(row.metrics.get(name) for name in metrics)])
    return buffer.getvalue()
