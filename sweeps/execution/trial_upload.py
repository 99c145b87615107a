"""A trial's folder on its worker's own disk, and what of it is in the object store.

What a trial writes goes to the object store while it trains, and is there when it ends.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar, final

from sweeps.finetune import checkpoint
from sweeps.storage.object_store import ObjectStore, StorageError
from sweeps.storage.trial_files import CHECKPOINTS, CLAIM_FILE, EVENTS_FILE, MODEL, RESULT_FILE


@final
class TrialCopy:
    """One try of one trial. The store has at every moment a state to go on from: events up to a
    whole line, a checkpoint only when it is whole, a result only after its model."""

    def __init__(self, store: ObjectStore, path: str, folder: Path, claim: str) -> None:
        """``path``: the trial's place in the store; ``claim``: a word that no other try has."""
        self._store, self._path, self._folder, self._claim = store, path, folder, claim
        self._turn, self._events_turn = threading.Lock(), threading.Lock()
        self._events = 0
        self._steps: dict[str, bool] = {}  # of the store's checkpoints: whether they are whole
        self._is_over = False

    def claim(self) -> None:
        """From now on this try writes there, and a try before it no more."""
        self._store.put(self._at(CLAIM_FILE), self._claim.encode())

    def fetch(self) -> None:
        """Make the folder what a try before this one left: its events, and its result, or else its
        latest whole checkpoint.

        Raises:
            StorageError: the store does not answer, or that try goes on and removed what was on
                its way: look again.
        """
        checkpoint.discard(self._folder)  # half of one that was on its way when asked before
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
            raise StorageError(f"{self._at(name)} was removed on its way here") from error

    @property
    def events_bytes(self) -> int:
        """Of the events that are there."""
        return self._events

    def push_events(self) -> None:
        """Put what has been recorded up to now there; waits for no checkpoint that is sent."""
        self._check_claim()
        self._push_events()

    def push(self) -> None:
        """Put what is new there: events, and a checkpoint; those before it go, once it is whole.

        Raises:
            StorageError: the store does not answer, or a later try of this trial has begun.
        """
        with self._turn:
            self._check_claim()
            self._push_events()
            self._push_checkpoint()

    def finish(self) -> None:
        """Put all there that the trial leaves at its end; raises as ``push``."""
        self.push()
        with self._turn:
            if not self._is_over:
                if not (self._folder / RESULT_FILE).exists():
                    return
                self._store.remove_tree(self._at(MODEL))  # of a try that was killed as it wrote
                self._upload(self._folder / MODEL, MODEL)
                self._check_claim()
                self._store.upload(self._folder / RESULT_FILE, self._at(RESULT_FILE))
                self._is_over = True  # what fails now is tried again, and the model is there
            elif not self._steps:  # else the try before was killed after its result
                return
            self._store.remove_tree(self._at(CHECKPOINTS))
            self._steps = {}

    def _push_events(self) -> None:
        events = self._folder / EVENTS_FILE
        with self._events_turn:
            data = events.read_bytes() if events.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) != self._events:
                self._store.put(self._at(EVENTS_FILE), whole)
                self._events = len(whole)

    def _push_checkpoint(self) -> None:
        here = checkpoint.saved(self._folder)
        if not here:
            return  # before the first, or after the last: the end says what goes
        latest = here[-1]
        if not self._steps.get(latest.name):
            with self._held(latest) as held:
                if held is None:
                    return
                self._steps[latest.name] = False
                self._upload(held, f"{CHECKPOINTS}/{latest.name}")
            self._steps[latest.name] = True
            self._check_claim()  # a later try may be fetching what is removed now
        for gone in self._steps.keys() - {place.name for place in here}:
            self._store.remove_tree(self._at(f"{CHECKPOINTS}/{gone}"))
            del self._steps[gone]

    @contextmanager
    def _held(self, latest: Path) -> Iterator[Path | None]:
        """The files of a checkpoint under other names, so that training may remove its own while
        they are on their way; None where it began to before they had them."""
        with TemporaryDirectory(dir=self._folder.parent) as home:
            try:
                held = shutil.copytree(latest, Path(home, latest.name), copy_function=_link)
            except (FileNotFoundError, shutil.Error):
                held = None
            # It goes once there is a newer one, or the result: until then its files are all here.
            is_latest = checkpoint.saved(self._folder)[-1:] == [latest]
            is_over = (self._folder / RESULT_FILE).exists()
            yield held if is_latest and not is_over else None

    def _upload(self, folder: Path, name: str) -> None:
        """All files of a folder; last the one with which a checkpoint is whole."""
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file.name == checkpoint.STATE):
            self._store.upload(file, self._at(f"{name}/{file.relative_to(folder).as_posix()}"))

    def _check_claim(self) -> None:
        """Two tries of one trial live at once where a machine was lost and comes back."""
        if self._store.read(self._at(CLAIM_FILE)) != self._claim.encode():
            raise SupersededError(f"{self._path}: another try of this trial has begun since")

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"


class SupersededError(StorageError):
    """This try of a trial is not the latest any more, and must not write."""


def _link(file: str, name: str) -> None:
    """The same file under another name."""
    try:
        os.link(file, name)
    except FileNotFoundError:
        raise
    except OSError:  # not every file system can
        shutil.copyfile(file, name)


T = TypeVar("T")

BEAT_SECONDS = 2.0
"""What a lost worker costs at most, beside the updates since its last checkpoint; more where what
is sent is large."""

EVENTS_BYTES_PER_SECOND = 1 << 20
"""What a trial's events cost at most: objects cannot be appended to, so that all of them are sent
each time, and the longer they are the more rarely."""

PATIENCE_SECONDS = 600.0
"""How long a trial's beginning and end wait for a store that does not answer."""


def patiently(ask: Callable[[], T], seconds: float = PATIENCE_SECONDS) -> T:
    """What a store answers, asked again and again, at longer and longer intervals.

    Raises:
        StorageError: its last answer, after so many seconds.
    """
    deadline, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            return ask()
        except SupersededError:
            raise
        except StorageError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 30.0)


def pause_after(seconds: float, events_bytes: int) -> float:
    """Until the next push, after one that took so long: it costs half of the time at most."""
    return max(BEAT_SECONDS, seconds, events_bytes / EVENTS_BYTES_PER_SECOND)


@contextmanager
def background_upload(trial: TrialCopy) -> Iterator[Callable[[], None]]:
    """Push in the background while the block runs, and all at its end. Yields what pushes the
    events now, for a moment at which others look at them; a store that does not answer then is
    no matter, since the background tries again.

    Raises:
        StorageError: at the end the store did not take it; or a later try has begun.
    """
    over = threading.Event()
    superseded: list[SupersededError] = []

    def beat() -> None:
        pause = BEAT_SECONDS
        while not over.wait(pause):
            began = time.monotonic()
            try:
                trial.push()
            except SupersededError as error:
                superseded.append(error)
                return
            except OSError:
                pass  # the store does not answer, or a file went away: tried again
            pause = pause_after(time.monotonic() - began, trial.events_bytes)

    def events_now() -> None:
        if superseded:
            raise superseded[0]
        try:
            trial.push_events()
        except SupersededError:
            raise
        except StorageError:
            pass

    thread = threading.Thread(target=beat, name="delivery", daemon=True)
    thread.start()
    try:
        yield events_now
    except BaseException:
        over.set()
        thread.join()
        with suppress(OSError):  # what ended the trial says more than this
            trial.push()
        raise
    over.set()
    thread.join()
    patiently(trial.finish)
