"""Who reads a file finds all of it, whoever writes it and however often."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from sweeps.storage.atomic_io import atomic_write


def test_writers_at_once_leave_one_whole_text(tmp_path: Path) -> None:
    path, texts = tmp_path / "file.json", ["a" * 100_000, "b" * 100_000]
    atomic_write(path, texts[0])

    def write(text: str) -> None:
        for _ in range(50):
            atomic_write(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in texts
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    atomic_write(path, "before", mode=0o600)
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "\ud800")
    assert path.read_text() == "before"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
