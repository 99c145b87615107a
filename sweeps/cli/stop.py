"""``stop``: ask the process that runs a sweep to stop, as Ctrl-C does."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load, load_stored
from sweeps.cli.steer import Domain, one_domain
from sweeps.config.sweep_config import paths_for
from sweeps.search.steering import stop_trial
from sweeps.search.trial_records import Records
from sweeps.storage.program import command_line
from sweeps.storage.remote_sync import living_driver, stop_driver
from sweeps.storage.run_lock import Driver
from sweeps.storage.study_paths import StudyPaths

POLL_SECONDS = 0.2
STORE_POLL_SECONDS = 2.0


def stop(
    config: ConfigFile,
    overrides: Overrides = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end.")] = 60.0,
    trial: Annotated[
        int | None,
        typer.Option(metavar="N", help="Stop only this trial of a search, at its next check."),
    ] = None,
    domain: Domain = None,
) -> Answer[Driver | str | None]:
    """Stop a running sweep, also from another machine. Finished trials are kept.

    When the sweep is resumed, interrupted trials continue from their last checkpoint. With
    `--trial`, one trial ends for good at its next validation check and keeps that score; the sweep
    continues. The checkpoint stays for `fork`.
    """
    if trial is not None:
        records = Records(load_stored(config, overrides))
        said = stop_trial(records, one_domain(records, domain), trial)
        return Answer(said, [said])
    if domain is not None:
        refuse("--domain requires --trial N")
    parsed = load(config, overrides)
    place = paths_for(parsed)
    folder = place.folder
    if not folder.is_dir():
        refuse(f"no sweep named '{parsed.name}' in {folder.parent}: nothing to stop")
    driver = stop_driver(place)
    if driver is None:
        return Answer(None, [f"{parsed.name} is not running: nothing to stop."])
    print(f"asked to stop: {driver}", flush=True)
    if not _has_stopped(place, driver, wait):
        refuse(
            f"not stopped within {wait:g} s: {driver}. The request remains, so it "
            f"may still stop; if it hangs, end its process (kill {driver.pid} on {driver.host}): "
            "finished trials are kept",
            code=1,
        )
    way_on = command_line("run", config, overrides)
    if place.config_file().is_file():
        way_on = command_line("resume", folder)
    lines = ["Stopped. Finished trials are kept. To continue:"]
    return Answer(driver, lines, (way_on,))


def _has_stopped(place: StudyPaths, driver: Driver, seconds: float) -> bool:
    """Whether the driver ends within ``seconds``."""
    deadline = time.monotonic() + seconds
    while living_driver(place) == driver:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS if place.address is None else STORE_POLL_SECONDS)
    return True
