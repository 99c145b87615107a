"""``queue``, ``fork`` and ``stop``: add trials to a search, or stop a sweep or one trial."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, Overrides, load, load_stored
from sweeps.config.load import load_overrides
from sweeps.config.sweep_config import paths_for
from sweeps.search.steering import fork_trial, queue_point, stop_trial
from sweeps.search.trial_records import Records
from sweeps.storage.command_line import command_line
from sweeps.storage.remote_sync import living_driver, stop_driver
from sweeps.storage.run_lock import Driver
from sweeps.storage.study_paths import StudyPaths

POLL_SECONDS = 0.2
STORE_POLL_SECONDS = 2.0
Domain = Annotated[str | None, typer.Option(help="The domain; required if the sweep has several.")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changed values, e.g. learning_rate=1e-4."),
]


def queue(
    config: ConfigFile,
    values: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE...", help="Values, e.g. mask_ratio=0.3."),
    ],
    domain: Domain = None,
) -> Answer[str]:
    """Add a point to a search, on top of `search.trials`. The sampler draws the other keys.

    A running sweep starts it when a slot is free, before the sampler's next point; an ended
    one, when it is resumed. Values must lie in the space, and no point is trained twice.
    """
    records = Records(load_stored(config, None))
    said = queue_point(records, one_domain(records, domain), load_overrides(values))
    return Answer(said, [said])


def fork(
    config: ConfigFile,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The trial's number.")],
    changes: Changes = None,
    domain: Domain = None,
) -> Answer[str]:
    """Continue a trial from its latest checkpoint as a new trial, with changed values.

    Model, optimizer, masks and position in the data are those of the checkpoint. These may change:
    learning_rate, mask_ratio, weight_decay, warmup_ratio, schedule, clip_norm, betas, examples.
    Reports list forks. They are never the search's best trial, and the sampler ignores them.
    """
    records = Records(load_stored(config, None))
    changed = load_overrides(changes or [])
    said = fork_trial(records, one_domain(records, domain), trial, changed)
    return Answer(said, [said])


def one_domain(records: Records, given: str | None) -> str:
    """The domain that a command means: the given one, or the only one."""
    domains = [*records.config.domains]
    if given is None and len(domains) > 1:
        refuse(f"--domain is missing: expected one of {', '.join(domains)}")
    return given or domains[0]


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
