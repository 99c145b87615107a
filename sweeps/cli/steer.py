"""``queue`` and ``fork``: add trials to a search that runs, or that has ended."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import ConfigFile, load_stored
from sweeps.config.load import load_overrides
from sweeps.search.steering import fork_trial, queue_point
from sweeps.search.trial_records import Records

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
