"""What each driver of a sweep has spent: a file for each, so that none writes another's."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import final

from sweeps.finetune.whole_file import write_whole
from sweeps.settings.budget import Book


@final
class SpendingFiles(Book):
    """In the sweep's folder; they outlive their drivers, since what is spent stays spent."""

    def __init__(self, folder: Path, driver: str, beside: Iterable[Path] = ()) -> None:
        """``driver``: the id of this process; ``beside``: folders of sweeps under the same
        budget."""
        self._home = folder / "spent"
        self._own = self._home / f"{driver}.gpu_hours"
        self._homes = {self._home, *(other / "spent" for other in beside)}

    def record(self, gpu_hours: float) -> None:
        """Write it; a disk that is full this moment is not said here."""
        if gpu_hours:
            with suppress(OSError):
                self._home.mkdir(parents=True, exist_ok=True)
                write_whole(self._own, repr(gpu_hours))

    def elsewhere(self) -> float:
        """The sum of the other files."""
        files = (file for home in self._homes for file in home.glob("*.gpu_hours"))
        return sum(_hours(file) for file in files if file != self._own)


def _hours(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # a storage that does not answer this moment
        return 0.0
