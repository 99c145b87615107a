"""Upload a trial's folder from its worker to the object store, during training and at its end.

`TrialCopy` uploads and downloads one attempt's files. `background_upload` does it in a thread.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

from sweeps.finetune import checkpoint
from sweeps.storage.atomic_io import linked_copy
from sweeps.storage.object_store import ObjectStore, StorageError, SupersededError
from sweeps.storage.outages import repeated, retry_storage
from sweeps.storage.trial_files import CHECKPOINTS, CLAIM_FILE, EVENTS_FILE, MODEL, RESULT_FILE


@final
class TrialCopy:
    """The files of one attempt of a trial, here and in the object store.

    The store always holds a state to resume from: events end with a complete line, a checkpoint
    counts once complete, and a result is uploaded after its model.
    """

    def __init__(self, store: ObjectStore, path: str, folder: Path, claim: str) -> None:
        """``path``: the trial's path in the store; ``claim``: a word unique to this attempt."""
        self._store, self._path, self._folder, self._claim = store, path, folder, claim
        self._events_turn, self._events_due = threading.Lock(), 0.0
        self._events = 0
        self._steps: dict[str, bool] = {}  # checkpoints in the store: whether they are complete
        self._is_over = False

    def claim(self) -> None:
        """Make this the only attempt that may write there; earlier attempts must stop."""
        self._store.put(self._at(CLAIM_FILE), self._claim.encode())

    def fetch(self) -> None:
        """Download what an earlier attempt left: its events, and its result or latest checkpoint.

        Raises:
            StorageError: the store does not respond, or that attempt is still running and removed
                a file during the download; retry.
        """
        checkpoint.discard(self._folder)  # partly downloaded by an earlier call
        found = sorted(self._store.files(self._path))
        there = [name.removeprefix(f"{self._path}/") for name in found]
        self._is_over = RESULT_FILE in there
        steps = {name.split("/")[1] for name in there if name.startswith(f"{CHECKPOINTS}/")}
        self._steps = {s: f"{CHECKPOINTS}/{s}/{checkpoint.STATE}" in there for s in steps}
        whole = [step for step, is_whole in self._steps.items() if is_whole]
        latest = f"{CHECKPOINTS}/{max(whole)}/" if whole and not self._is_over else None
        for name in there:
            if name in (EVENTS_FILE, RESULT_FILE) or (latest and name.startswith(latest)):
                self._fetch_file(name)
        events = self._folder / EVENTS_FILE
        self._events = events.stat().st_size if events.exists() else 0

    def _fetch_file(self, name: str) -> None:
        try:
            self._store.download(self._at(name), self._folder / name)
        except FileNotFoundError as error:
            raise StorageError(f"{self._at(name)} was removed during the download") from error

    def push_events(self) -> None:
        """Upload the events so far, without waiting for the upload of a checkpoint."""
        self._check_claim()
        events = self._folder / EVENTS_FILE
        with self._events_turn:
            data = events.read_bytes() if events.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) != self._events:
                self._store.put(self._at(EVENTS_FILE), whole)
                self._events = len(whole)
                self._events_due = time.monotonic() + events_pause(len(whole))

    def push(self) -> None:
        """Upload events, if they are due, and checkpoints; a complete one replaces older ones.

        Raises:
            StorageError: the store does not respond.
            SupersededError: a later attempt of this trial has started.
        """
        self._check_claim()
        if time.monotonic() >= self._events_due:
            self.push_events()
        self._push_checkpoint()

    def finish(self) -> None:
        """Upload everything the trial leaves at its end; raises the same errors as ``push``."""
        self.push_events()
        self._push_checkpoint()
        if not self._is_over:
            if not (self._folder / RESULT_FILE).exists():
                return
            self._store.remove_tree(self._at(MODEL))  # left by an attempt killed while writing
            self._upload(self._folder / MODEL, MODEL)
            self._check_claim()
            self._store.upload(self._folder / RESULT_FILE, self._at(RESULT_FILE))
            self._is_over = True  # if the rest fails, a retry finds the model uploaded
        elif not self._steps:  # otherwise an earlier attempt was killed after its result
            return
        self._store.remove_tree(self._at(CHECKPOINTS))
        self._steps = {}

    def _push_checkpoint(self) -> None:
        here = checkpoint.saved(self._folder)
        if not here:
            return  # before the first checkpoint, or after the last, which `finish` handles
        latest = here[-1]
        if not self._steps.get(latest.name):
            with self._held(latest) as held:
                if held is None:
                    return
                self._steps[latest.name] = False
                self._upload(held, f"{CHECKPOINTS}/{latest.name}")
            self._steps[latest.name] = True
            self._check_claim()  # a later attempt may be downloading what is removed now
        for gone in self._steps.keys() - {place.name for place in here}:
            self._store.remove_tree(self._at(f"{CHECKPOINTS}/{gone}"))
            del self._steps[gone]

    @contextmanager
    def _held(self, latest: Path) -> Iterator[Path | None]:
        """Links to a checkpoint's files, so that training may remove it during the upload.

        Yields None if training began to remove it before they were made.
        """
        with TemporaryDirectory(dir=self._folder.parent) as home:
            held: Path | None = None
            with suppress(FileNotFoundError, shutil.Error):
                held = linked_copy(latest, Path(home, latest.name))
            # Training removes it once there is a newer one or a result; until then it is complete.
            is_latest = checkpoint.saved(self._folder)[-1:] == [latest]
            is_over = (self._folder / RESULT_FILE).exists()
            yield held if is_latest and not is_over else None

    def _upload(self, folder: Path, name: str) -> None:
        """Upload all files of a folder; the file that makes a checkpoint complete comes last."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file.name == checkpoint.STATE):
            self._store.upload(file, self._at(f"{name}/{file.relative_to(folder).as_posix()}"))

    def _check_claim(self) -> None:
        """Two attempts of a trial run at once if a machine was considered lost and comes back."""
        if self._store.read(self._at(CLAIM_FILE)) != self._claim.encode():
            raise SupersededError(f"{self._path}: a later attempt of this trial has started")

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


BEAT_SECONDS = 2.0
"""If a worker is lost, at most this much is lost besides the updates since its last checkpoint;
more for large uploads."""

EVENTS_BYTES_PER_SECOND = 1 << 20
"""The upload rate allowed for events. Objects cannot be appended to, so all events are sent each
time, and less often as they grow."""


def events_pause(size: int) -> float:
    """Seconds between two uploads of events of this size (bytes)."""
    return size / EVENTS_BYTES_PER_SECOND


@contextmanager
def background_upload(trial: TrialCopy) -> Iterator[Callable[[], None]]:
    """Upload in the background during the block, and everything at its end.

    Yields a function that uploads the events now, for use before others read them. It ignores a
    store that does not respond, because the background thread retries.

    Raises:
        StorageError: the upload at the end failed.
        SupersededError: a later attempt has started.
    """

    def events_now() -> None:
        try:
            trial.push_events()
        except SupersededError:
            raise
        except StorageError:
            pass

    try:
        with repeated(trial.push, BEAT_SECONDS):
            yield events_now
    except BaseException:
        with suppress(OSError):  # report the error that ended the trial instead
            trial.push()
        raise
    retry_storage(trial.finish)
