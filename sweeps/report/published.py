"""What the paper publishes (arXiv 2406.15330): its tables in `published.json`, and its claims.

Scores are in percent. Table 1 has no pre-trained row for math in the text we read. The curves of
Figures 2 and 3 are missing, because the paper does not print their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Final

from sweeps.report.page import Drawn, table

Row = Mapping[str, Any]
"""One method of one `group` ("Mistral-7B, code"): its values by column."""

_TABLES: Final[Mapping[str, Any]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
BEST_RATIO: Final[Mapping[str, float]] = _TABLES["4"]
"""Table 4: the best mask ratio by group."""

SENSITIVITY_CLAIM: Final = (
    "The paper's Figure 2: scores stay consistent up to a mask ratio of 0.9; at 0.95 and 0.99, "
    "math and code are still good but general degrades."
)
DROP_CLAIM: Final = (
    "The paper's Figure 3: dropping the smallest changes degrades the model significantly once "
    "the rate reaches 0.8, dropping random ones hurts from 0.4, and dropping the largest hurts at "
    "any rate."
)


def groups(*numbers: int) -> dict[str, list[Row]]:
    """The rows of these tables (1, 2, 3) by group, in the paper's order."""
    found: dict[str, list[Row]] = {}
    for row in (row for number in numbers for row in _TABLES[str(number)]):
        found.setdefault(row["group"], []).append(row)
    return found


def scores(row: Row) -> list[float]:
    """The scores of a row of Table 1 or 2, without the printed average."""
    return [value for name, value in row.items() if name not in ("group", "method", "Average")]


def gains() -> dict[str, list[float]]:
    """Each method's mean score minus SFT's, in points, for each group of Tables 1 and 2."""
    found: dict[str, list[float]] = {}
    for rows in groups(1, 2).values():
        [sft] = [mean(scores(row)) for row in rows if row["method"] == "SFT"]
        for row in rows:
            found.setdefault(row["method"], []).append(mean(scores(row)) - sft)
    return found


def relative_speeds() -> dict[str, dict[str, float]]:
    """Table 3: each method's samples per second relative to SFT's, by group."""
    found = {}
    for group, rows in groups(3).items():
        speeds = {row["method"]: row["samples/s"] for row in rows}
        found[group] = {name: speed / speeds["SFT"] for name, speed in speeds.items()}
    return found


def published(title: str, caption: str, *numbers: int) -> Drawn:
    """Tables of the paper as printed, one for each group."""
    parts = []
    for group, rows in groups(*numbers).items():
        hidden = ("group", "method")
        shown = [
            {group: row["method"], **{k: v for k, v in row.items() if k not in hidden}}
            for row in rows
        ]
        parts.append(table(shown))
    return Drawn("", title, caption, table="".join(parts))


def published_scores() -> Drawn:
    """Tables 1 and 2 in full."""
    caption = (
        "Scores in percent, one run each, without intervals: a difference of one point between "
        "two of these rows may be chance. Other models, data and recipes than ours."
    )
    return published("What the paper reports: Tables 1 and 2", caption, 1, 2)


def published_speeds() -> Drawn:
    """Table 3 in full."""
    caption = "Training samples per second; FLOPs as printed, without a unit."
    return published("What the paper reports: Table 3", caption, 3)
