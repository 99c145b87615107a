"""``doctor``: is everything there that a sweep needs, on this machine and on every node?"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sweeps.doctor.finding import Finding

MARKS = {True: "ok", False: "FAILED"}


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="[CONFIG]", help="The sweep's YAML file, for its storage."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As in `run`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check versions, GPUs, storage, disk, memory, sandbox and MLflow; say what mends a failure.

    Inside a cluster's job every node is asked too, by a task that runs there:
    `ray job submit --working-dir . -- python -m sweeps doctor my.yaml`. Starts and changes
    nothing; exits with 1 when something failed.
    """
    from sweeps.commands.shared import mistakes_explained
    from sweeps.doctor.examine import examine
    from sweeps.settings.cluster_address import cluster_address

    with mistakes_explained():
        found = examine(config, overrides or [], bool(cluster_address()))
    if as_json:
        print(json.dumps({place: [asdict(f) for f in each] for place, each in found.items()}))
    else:
        for place, findings in found.items():
            _print(place, findings)
    if not all(finding.ok for findings in found.values() for finding in findings):
        raise typer.Exit(1)


def _print(place: str, findings: list[Finding]) -> None:
    print(place)
    for finding in findings:
        print(f"  {MARKS[finding.ok]:<6}  {finding.name}: {finding.said}")
        if finding.mend:
            print(f"          {'to mend' if not finding.ok else 'better'}: {finding.mend}")
