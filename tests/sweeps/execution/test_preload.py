"""Imports beside other work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sweeps.execution.worker_session import imported_meanwhile


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    monkeypatch.syspath_prepend(folder)
    (folder / "slowly_imported.py").write_text(text)
    monkeypatch.delitem(sys.modules, "slowly_imported", raising=False)
    return "slowly_imported"


def test_a_module_is_there_after_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with imported_meanwhile(module(tmp_path, monkeypatch, "WORD = 'here'")):
        pass
    assert sys.modules["slowly_imported"].WORD == "here"


def test_what_fails_fails_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(tmp_path, monkeypatch, "raise ImportError('no such library')")
    with imported_meanwhile(name):
        pass
    with pytest.raises(ImportError, match="no such library"):
        __import__(name)


def test_the_error_of_the_block_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        imported_meanwhile(module(tmp_path, monkeypatch, "WORD = 'here'")),
    ):
        raise KeyboardInterrupt
    assert "slowly_imported" in sys.modules
