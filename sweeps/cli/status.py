"""``status``: show the status of a sweep, from any terminal, while it runs and after."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live

from sweeps.cli.arguments import AsJson, ConfigFile, Overrides, load_stored, mistakes_explained
from sweeps.cli.status_view import PaperStatus, paper_status, paper_view, view
from sweeps.cli.sweep_status import SweepStatus
from sweeps.cli.sweep_status import status as status_of
from sweeps.config.load import is_paper
from sweeps.search.trial_records import Records
from sweeps.storage.closed_output import is_heard
from sweeps.storage.run_lock import StartingError

View = list[RenderableType]
Status = SweepStatus | PaperStatus


def status(
    config: ConfigFile,
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the sweep ends.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show who runs a sweep, which trials are done, which failed and why, and the time left.

    Reads only the sweep's folder, so it works from another terminal, from another machine with
    access to the folder, and after the end. `--watch --json` prints one line per refresh. For a
    `paper` it shows every study.
    """
    looks = _looks(_reader(config, overrides), every if watch else None)
    try:
        with mistakes_explained():
            if as_json:
                for look in looks:
                    print(json.dumps(asdict(look), indent=None if watch else 1), flush=True)
            else:
                _show(paper_view(x) if isinstance(x, PaperStatus) else view(x) for x in looks)
    except KeyboardInterrupt:  # stops only this command; the sweep continues
        raise typer.Exit(0) from None


def _reader(config: str, overrides: list[str] | None) -> Callable[[], Status]:
    """A function that reads the status. It opens the records once, as soon as there are any."""

    @cache  # does not keep an exception
    def opened() -> Callable[[], Status]:
        parsed = load_stored(config, overrides)
        if is_paper(parsed):
            return partial(paper_status, parsed)
        return partial(status_of, Records(parsed))

    def look() -> Status:
        try:
            return opened()()
        except StartingError as error:
            folder = error.folder
            return SweepStatus(folder.name, str(folder), "starting", error.driver)

    return look


def _looks(look_at: Callable[[], Status], every: float | None) -> Iterator[Status]:
    """One status, or one after another while a driver runs the sweep."""
    look = look_at()
    yield look
    while every is not None and look.driver and is_heard(sys.stdout):
        time.sleep(every)
        look = look_at()
        yield look


def _show(views: Iterator[View]) -> None:
    """Redraw in place on a terminal; print one below the other elsewhere."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not sys.stdout.isatty():
        for lines in views:
            console.print(*lines, sep="\n")
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for lines in views:
            live.update(Group(*lines), refresh=True)
