"""A durable event queue in one JSONL file, from a trial to the study's driver.

The trial's rank 0 appends; the driver reads and forwards. A line counts once its newline is
written, so readers never see half an event, even during a write or after a crash. Delivery is at
least once; with an idempotent tracker, each point arrives exactly once.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, Self, final

from sweeps.storage.trial_files import Event, parse_event
from sweeps.tracking.tracker import SINGLE, Tracker

SYNC_SECONDS = 1.0


@final
class Outbox:
    """Appends events; one writer per file.

    Each event is passed to the operating system at once, so it survives the process. It is on disk
    at most `SYNC_SECONDS` later, because an fsync per training step would stall small models.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        written = path.read_bytes()  # a killed writer may have left half a line
        os.ftruncate(self._fd, written.rfind(b"\n") + 1)
        self._synced = time.monotonic()

    def append(self, kind: str, **fields: Any) -> None:
        """Append one event; `fields` must be JSON values. Adds the time (Unix seconds)."""
        line = json.dumps({"kind": kind, "time": time.time(), **fields}) + "\n"
        data = line.encode()
        while data:
            data = data[os.write(self._fd, data) :]
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            os.fsync(self._fd)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync to disk and close; may be called again."""
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class OutboxReader:
    """Reads an outbox. A new reader starts at the beginning: trackers ignore what they have."""

    def __init__(self, path: Path) -> None:
        self.path, self._committed, self._end = path, 0, 0

    def read(self) -> list[Event]:
        """Complete events after the last `commit`; [] if there is no file yet.

        Until `commit`, the same events (and newer ones) are returned again.
        """
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            if self._committed > file.seek(0, os.SEEK_END):  # the outbox was recreated
                self._committed = 0
            file.seek(self._committed)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._end = self._committed + len(complete)
        events = [parse_event(line) for line in complete.splitlines()]
        if None in events:  # a damaged line (a disk error) must not block all later ones
            logging.getLogger(__name__).warning("%s: skipped an unreadable line", self.path)
        return [event for event in events if event is not None]

    def commit(self) -> None:
        """Mark the events of the last `read` as delivered."""
        self._committed = self._end


def forward(reader: OutboxReader, tracker: Tracker, key: str) -> list[Event]:
    """Send new "step" events of trial `key` to the tracker; returns all new events.

    They are committed only after the tracker has written them, so after a `TrackingError` nothing
    is lost and the next call sends them again.
    """
    events = reader.read()
    for event in events:
        if event["kind"] == "step":
            curves = {k: v for k, v in event["metrics"].items() if not k.startswith(SINGLE)}
            tracker.log(key, int(event["step"]), curves, event["time"])
    if events:
        tracker.flush()
        reader.commit()
    return events
