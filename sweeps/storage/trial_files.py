"""The files in a trial's folder, and which files of a sweep are the workers' or the driver's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

Event = dict[str, Any]

RUN_FILE, FAILURE_FILE = "run.yaml", "failure.log"
"""The trial's run, which `finetune` can repeat alone, and why the trial failed."""

EVENTS_FILE, SENT_FILE = "events.jsonl", "sent"
"""The events the trial reports, and the mark that this machine's tracker has all of them. Another
machine sends them again, which is idempotent."""

RESULT_FILE = "result.json"
"""Written once the run has ended."""

CLAIM_FILE = "claim"
"""In an object store: the trial's latest attempt, the only one that may write there."""

CHECKPOINTS, MODEL = "checkpoint", "model"
STATE_FILE = "state.pt"
"""In the folder of a checkpoint, which is complete with it."""

REQUESTS, FORKS = "requests", "forks"
"""Written by commands: requests to the driver, in the sweep's folder, and the checkpoints that
forks start from, in a study's."""

_WORKERS = frozenset({EVENTS_FILE, RESULT_FILE, CLAIM_FILE, CHECKPOINTS, MODEL})
_LOCAL_ENDINGS = (".lock", ".partial", ".tmp")
DATABASE = "optuna.db"


def trial_of(path: PurePosixPath) -> PurePosixPath | None:
    """The trial's folder that contains this path of a sweep's folder: ``DOMAIN/trials/KEY``."""
    parts = path.parts
    return PurePosixPath(*parts[:3]) if len(parts) > 3 and parts[1] == "trials" else None


def is_workers(path: PurePosixPath) -> bool:
    """Whether the trial's worker writes this file; the path starts in the sweep's folder."""
    return trial_of(path) is not None and path.parts[3] in _WORKERS


def is_drivers(path: PurePosixPath) -> bool:
    """Whether the driver writes this file and other machines need it.

    The database is excluded: `sweeps.storage.database_backup` decides when its copy is consistent.
    """
    if is_workers(path) or path.name == SENT_FILE or path.name.endswith(_LOCAL_ENDINGS):
        return False
    if any(part.startswith(".") for part in path.parts) or path.name.startswith(DATABASE):
        return False
    is_rays = path.parts[0] == "groups" or (len(path.parts) > 2 and path.parts[1][:5] == "tune-")
    return (
        not is_rays and path.parts[0] not in ("drivers", REQUESTS) and FORKS not in path.parts[1:2]
    )


def parse_event(line: str | bytes) -> Event | None:
    """The event of one line of an event log; None if the line is damaged."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def last_lines(file: Path, most_bytes: int) -> list[bytes]:
    """The lines at the end of a file, the first perhaps cut; none if it cannot be read."""
    with suppress(OSError), file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - most_bytes))
        return opened.read().splitlines()
    return []


def step_events(file: Path) -> Iterator[Event]:
    """The "step" events of an event log, without damaged lines; none if there is no file."""
    if file.is_file():
        with file.open("rb") as lines:
            events = map(parse_event, lines)
            yield from (event for event in events if event and event["kind"] == "step")
