"""``leaderboard``: the best trials of a sweep, also while it runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load_stored
from sweeps.execution.progress import POINT_LEGEND, point_text, recorded_point
from sweeps.report.trial_row import ScoreLabel, TrialRow
from sweeps.search.trial_records import Records, label_of, ranked


def leaderboard(
    config: ConfigFile,
    overrides: Overrides = None,
    top: Annotated[int, typer.Option(min=1, help="Number of trials to show per domain.")] = 10,
) -> Answer[dict[str, list[TrialRow]]]:
    """Show the best trials per domain, by score on validation items; also while a sweep runs.

    Running trials and trials that were stopped early come last: their scores are from earlier
    steps.
    """
    parsed = load_stored(config, overrides)
    boards = {name: ranked(rows)[:top] for name, rows in Records(parsed).begun().items()}
    if not boards:
        refuse(f"{parsed.name}: no trial has started yet", code=1)
    tables = (_table(name, rows, label_of(parsed, name)) for name, rows in boards.items())
    return Answer(boards, tables)


def _table(name: str, rows: list[TrialRow], label: ScoreLabel) -> Table:
    title = f"{name}: best trials by {label.text} on validation items"
    table = Table(title=title, caption=POINT_LEGEND)
    for column in ("", "trial", "score", "point", "state", "seconds"):
        table.add_column(column, justify="right")
    is_search = not all(row.stage for row in rows)
    for place, row in enumerate(rows, start=1):
        table.add_row(
            str(place),
            str(row.number),
            "" if row.score is None else label.number(row.score),
            point_text(recorded_point(row)),
            _state(row, is_search=is_search),
            f"{row.seconds:.0f}" if row.has_ended() else "",
        )
    return table


def _state(row: TrialRow, *, is_search: bool) -> str:
    """The state, with the constraints it violates, and who added the trial if not the sampler."""
    said = ", violates ".join([row.state.replace("_", " "), *row.violated])
    if row.scores:
        said += f", mean of {len(row.scores)} seeds"
    if is_search and row.stage and row.parent is None:
        said += f", seed {row.seed} of a point"
    if row.parent is not None:
        said += f", fork of {row.parent} at update {row.parent_step}"
    if row.queued:
        said += ", queued by hand"
    return f"{said}, of {row.origin}" if row.origin else said
