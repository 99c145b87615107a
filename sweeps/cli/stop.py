"""``stop``: ask the process that runs a sweep to stop, as Ctrl-C does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.arguments import (
    ConfigFile,
    Overrides,
    command_line,
    load,
    mistakes_explained,
    refuse,
)

if TYPE_CHECKING:
    from sweeps.storage.run_lock import Driver
    from sweeps.storage.study_paths import StudyPaths

POLL_SECONDS = 0.2
STORE_POLL_SECONDS = 2.0


def stop(
    config: ConfigFile,
    overrides: Overrides = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end.")] = 60.0,
) -> None:
    """Stop a running sweep, also from another machine. Finished trials are kept.

    When the sweep is resumed, interrupted trials continue from their last checkpoint.
    """
    with mistakes_explained():
        parsed = load(config, overrides)
        from sweeps.config.sweep_config import paths_for
        from sweeps.storage.remote_sync import stop_drivers

        place = paths_for(parsed)
        folder = place.folder
        if not folder.is_dir():
            refuse(f"no sweep named '{parsed.name}' in {folder.parent}: nothing to stop")
        asked = stop_drivers(place)
    if not asked:
        print(f"{parsed.name} is not running: nothing to stop.")
        return
    for driver in asked:
        print(f"asked to stop: {driver}", flush=True)
    left = _wait(place, asked, wait)
    if left:
        refuse(
            f"not stopped within {wait:g} s: {'; '.join(map(str, left))}. The request stands and "
            f"it may still stop; if it hangs, end its process (kill {left[0].pid} on "
            f"{left[0].host}): finished trials are kept",
            code=1,
        )
    way_on = command_line("run", config, overrides)
    if place.config_file().is_file():
        way_on = command_line("resume", str(folder))
    print(f"Stopped. Finished trials are kept. To continue:\n  {way_on}")


def _wait(place: StudyPaths, asked: list[Driver], seconds: float) -> list[Driver]:
    """Wait until all of ``asked`` have ended; return those still alive after ``seconds``."""
    from sweeps.storage.remote_sync import refresh
    from sweeps.storage.run_lock import living_drivers

    deadline = time.monotonic() + seconds
    ids = {driver.id for driver in asked}
    while left := [driver for driver in living_drivers(place.folder) if driver.id in ids]:
        if time.monotonic() > deadline:
            return left
        time.sleep(POLL_SECONDS if place.address is None else STORE_POLL_SECONDS)
        refresh(place)
    return []
