"""``status``: show the status of a sweep, from any terminal, while it runs and after."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated

import typer

from sweeps.cli.answer import Answer
from sweeps.cli.arguments import ConfigFile, Overrides, load_stored
from sweeps.cli.status_view import PaperStatus, paper_status, paper_view, view, ways_on
from sweeps.cli.sweep_status import SweepStatus
from sweeps.cli.sweep_status import status as status_of
from sweeps.config.load import is_paper
from sweeps.search.trial_records import NothingRecordedError, Records
from sweeps.storage.run_lock import StartingError
from sweeps.storage.terminal_output import is_heard

Status = SweepStatus | PaperStatus


def status(
    config: ConfigFile,
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the sweep ends.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between refreshes.")] = 2.0,
) -> Iterator[Answer[SweepStatus | PaperStatus]]:
    """Show who runs a sweep, which trials are done, which failed and why, and the time left.

    Reads only the sweep's folder, so it works from another terminal, from another machine with
    access to the folder, and after the end. `--watch --json` prints one line per refresh. For a
    `paper` it shows every study.
    """
    look = _reader(config, overrides)
    try:
        while True:
            found = look()
            shown = paper_view(found) if isinstance(found, PaperStatus) else view(found)
            yield Answer(found, shown, tuple(ways_on(found).values()))
            if not (watch and found.driver and is_heard(sys.stdout)):
                return
            time.sleep(every)
    except KeyboardInterrupt:  # stops only this command; the sweep continues
        return


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
        except NothingRecordedError as error:
            return SweepStatus(error.folder.name, str(error.folder), "stopped", None)

    return look
