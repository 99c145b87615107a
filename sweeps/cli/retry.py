"""``retry``: run failed trials again."""

from __future__ import annotations

from typing import Annotated

import typer

from sweeps.cli.arguments import (
    ConfigFile,
    Overrides,
    command_line,
    load_stored,
    mistakes_explained,
    refuse,
)
from sweeps.cli.run import run_sweep


def retry(
    config: ConfigFile,
    overrides: Overrides = None,
    failed: Annotated[bool, typer.Option("--failed", help="Retry all failed trials.")] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Only failures of this kind, e.g. oom (`status` shows the kinds). Repeatable."
        ),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Continue the sweep at once.")] = False,
) -> None:
    """Queue failed trials again, with the same points and the same numbers.

    A trial that ran out of memory may fit with half the micro-batch at the same effective batch:
    `retry FOLDER --kind oom --run failures.on_oom=halve`.
    """
    with mistakes_explained():
        from sweeps.config.failures import KINDS
        from sweeps.storage.errors import nearest

        for one in kind or ():
            if one not in KINDS:
                refuse(f"--kind {one}: no such kind of failure ({nearest(one, [*KINDS])})")
        if not failed and not kind:
            refuse("specify --failed or --kind KIND (for example oom)")
        from sweeps.search.retry_failed import queue_failed
        from sweeps.search.trial_records import Records

        records = Records(load_stored(config, overrides))
        queued = {
            name: found for name, found in queue_failed(records, kind or []).items() if found
        }
    for name, numbers in queued.items():
        print(f"{name}: queued again: trial {', '.join(map(str, numbers))}")
    if not queued:
        print("No failed trials to retry.")
        return
    again = command_line("resume", str(records.place.folder), overrides)
    if run:
        run_sweep(records.config, again, adopt=False)
        return
    print(f"To continue:\n  {again}")
