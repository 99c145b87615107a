"""The paper's Table 4: the best mask ratio by domain, from finished searches."""

from __future__ import annotations

from collections.abc import Mapping

from sweeps.report.data import ScoreLabel, TrialRow
from sweeps.report.page import NO_VALUE, Drawn, table
from sweeps.report.published import BEST_RATIO


def best_ratio(found: Mapping[str, tuple[ScoreLabel, TrialRow | None, int]]) -> Drawn:
    """`found[domain]`: label, best finished trial, number of finished trials."""
    rows = []
    for domain, (label, row, count) in found.items():
        if row is None or row.score is None:
            rows.append([domain, NO_VALUE, NO_VALUE, NO_VALUE, NO_VALUE, str(count)])
            continue
        rows.append(
            [
                domain,
                f"{row.mask_ratio:g}",
                str(row.accumulation_interval),
                f"{row.learning_rate:.2e}",
                f"{label.number(row.score)} {label.text}",
                str(count),
            ]
        )
    heads = ["domain", "mask ratio", "N", "learning rate", "validation", "trials"]
    published = table(["paper", "mask ratio"], [[k, f"{v:g}"] for k, v in BEST_RATIO.items()])
    caption = (
        "The best trial of each search, on validation items; a search says what to use, not "
        "whether the ratio matters. The paper's are of other models and data."
    )
    return Drawn("best_ratio", "Best mask ratio", caption, None, table(heads, rows) + published)
