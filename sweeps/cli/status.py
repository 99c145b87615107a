"""``status``: how a sweep stands, from any terminal, while it runs and after."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.arguments import AsJson, ConfigFile, Overrides, load_stored, mistakes_explained
from sweeps.storage.closed_output import is_heard

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sweeps.config.sweep_config import SweepConfig

    View = list[RenderableType]


def status(
    config: ConfigFile,
    overrides: Overrides = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until nobody runs it.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """How a sweep stands: who runs it, what is done, what failed and why, and the time left.

    It reads the sweep's folder only, so it works from another terminal, from another machine that
    sees the folder, and after the end. `--watch --json` prints a line for each look. Of a `paper`
    it shows every study.
    """
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        look_at, view = _eyes(parsed)
        looks = _looks(look_at, every if watch else None)
    try:
        with mistakes_explained():
            if as_json:
                for look in looks:
                    print(json.dumps(asdict(look), indent=None if watch else 1), flush=True)
            else:
                _show(map(view, looks))
    except KeyboardInterrupt:  # by the one who watches: the sweep goes on
        raise typer.Exit(0) from None


def _eyes(config: SweepConfig) -> tuple[Callable[[], Any], Callable[[Any], View]]:
    """What looks at the sweep, or the paper, of this name, and what shows what it saw."""
    from sweeps.cli.status_view import paper_status, paper_view, view
    from sweeps.cli.sweep_status import status as status_of
    from sweeps.config.load import is_paper
    from sweeps.search.trial_records import Records

    if is_paper(config):
        return lambda: paper_status(config), paper_view
    records = Records(config)
    return lambda: status_of(records), view


def _looks(look_at: Callable[[], Any], every: float | None) -> Iterator[Any]:
    """One look, or one after another for as long as somebody runs it."""
    look = look_at()
    yield look
    while every is not None and look.driver and is_heard(sys.stdout):
        time.sleep(every)
        look = look_at()
        yield look


def _show(views: Iterator[View]) -> None:
    """In place on a terminal; one below the other elsewhere."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not sys.stdout.isatty():
        for lines in views:
            console.print(*lines, sep="\n")
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for lines in views:
            live.update(Group(*lines), refresh=True)
