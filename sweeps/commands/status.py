"""``status``: how a sweep stands, from any terminal, while it runs and after."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.commands.shared import AsJson, ConfigFile, Overrides, load_stored, mistakes_explained

if TYPE_CHECKING:
    from sweeps.config import SweepConfig
    from sweeps.display.status import SweepStatus
    from sweeps.search.records import Records


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
    sees the folder, and after the end. `--watch --json` prints a line for each look.
    """
    with mistakes_explained():
        parsed = load_stored(config, overrides)
        from sweeps.search.records import Records

        _check_on_record(parsed)
        looks = _looks(Records(parsed), every if watch else None)
    try:
        if as_json:
            for look in looks:
                print(json.dumps(asdict(look), indent=None if watch else 1), flush=True)
        else:
            _show(looks)
    except KeyboardInterrupt:  # by the one who watches: the sweep goes on
        raise typer.Exit(0) from None


def _check_on_record(config: SweepConfig) -> None:
    """Refuse what somebody runs and has nothing on record: a `paper`, whose studies are sweeps of
    their own, or what has just been started."""
    from sweeps.errors import UserError
    from sweeps.folder.drivers import living_drivers
    from sweeps.folder.place import place_of

    place = place_of(config)
    drivers = living_drivers(place.folder)
    if not drivers or place.optuna_file().is_file():
        return
    if not drivers[0].is_paper:
        raise UserError(
            f"{config.name} is being started, by {drivers[0]}: nothing is on record yet, ask "
            "again in some seconds"
        )
    kinds = ", ".join(f"{config.name}-{kind}" for kind in config.study.paper)
    raise UserError(
        f"`paper` runs {config.name}, by {drivers[0]}. Each of its studies is a sweep of its "
        f"own ({kinds}): give the folder of one, as {place.folder}-{config.study.paper[0]}"
    )


def _looks(records: Records, every: float | None) -> Iterator[SweepStatus]:
    """One look, or one after another for as long as somebody runs the sweep."""
    from sweeps.display.status import status as status_of

    look = status_of(records)
    yield look
    while every is not None and look.drivers:
        time.sleep(every)
        look = status_of(records)
        yield look


def _show(looks: Iterator[SweepStatus]) -> None:
    """In place on a terminal; one below the other elsewhere."""
    from rich.console import Console, Group
    from rich.live import Live

    from sweeps.display.status_view import view

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not sys.stdout.isatty():
        for look in looks:
            console.print(*view(look), sep="\n")
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for look in looks:
            live.update(Group(*view(look)), refresh=True)
