"""The files of a trial's folder, and who writes which of a sweep's folder in an object store."""

from __future__ import annotations

from pathlib import PurePosixPath

RUN_FILE, FAILURE_FILE = "run.yaml", "failure.log"
"""What a trial runs, for `finetune` to repeat it alone, and why it failed."""

EVENTS_FILE, SENT_FILE = "events.jsonl", "sent"
"""What the trial reports, and the mark that the tracker has all of it."""

RESULT_FILE = "result.json"
"""Written once the run has ended."""

CLAIM_FILE = "claim"
"""In an object store: the attempt of the trial that may write there, the latest."""

CHECKPOINTS, MODEL = "checkpoint", "model"

_WORKERS = frozenset({EVENTS_FILE, RESULT_FILE, CLAIM_FILE, CHECKPOINTS, MODEL})
_LOCAL_NAMES = frozenset({SENT_FILE, f"{EVENTS_FILE}.offset"})
"""What this machine has told the tracker. Another one tells it all again, which adds nothing."""

_LOCAL_ENDINGS = (".lock", ".partial", ".tmp", ".arriving")
DATABASE = "optuna.db"


def trial_of(path: PurePosixPath) -> PurePosixPath | None:
    """The trial's folder that a path of a sweep's folder lies in: ``DOMAIN/trials/KEY``."""
    parts = path.parts
    return PurePosixPath(*parts[:3]) if len(parts) > 3 and parts[1] == "trials" else None


def is_workers(path: PurePosixPath) -> bool:
    """Whether the worker of a trial writes this, whose path starts in the sweep's folder."""
    return trial_of(path) is not None and path.parts[3] in _WORKERS


def is_drivers(path: PurePosixPath) -> bool:
    """Whether the driver writes it and other machines are to have it. The database is not among
    them: `sweeps.storage.database_backup` says when a copy of it is whole."""
    if is_workers(path) or path.name in _LOCAL_NAMES or path.name.endswith(_LOCAL_ENDINGS):
        return False
    if any(part.startswith(".") for part in path.parts) or path.name.startswith(DATABASE):
        return False
    is_rays = path.parts[0] == "groups" or (len(path.parts) > 2 and path.parts[1][:5] == "tune-")
    return not is_rays and path.parts[0] != "drivers"
