"""What the ranks of a group see of files that another process may change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweeps.finetune import process_group as module
from sweeps.finetune.process_group import Group


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_SECONDS", (0.0,) * 5)


def looks(*found: object) -> Callable[[], object]:
    """Finds one after the other; an OSError is raised."""
    left = iter(found)

    def look() -> object:
        value = next(left)
        if isinstance(value, OSError):
            raise value
        return value

    return look


def say(monkeypatch: pytest.MonkeyPatch, *others: object) -> None:
    """A second rank, which finds these."""
    left = iter(others)

    def gather(into: list[object], mine: object) -> None:
        into[:] = [mine, (True, repr(next(left)))]

    monkeypatch.setattr(module.dist, "all_gather_object", gather)


def test_a_file_that_goes_away_is_looked_for_again() -> None:
    look = looks(FileNotFoundError("gone"), None, 7)
    assert Group().agree(look, lambda value: value, "it") is None


def test_ranks_look_until_they_see_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, False, True, True)
    found = Group(0, 2).agree(looks("result", "result"), lambda value: value is not None, "it")
    assert found == "result"


def test_what_cannot_be_read_at_all_says_why() -> None:
    refused = PermissionError(13, "Permission denied", "runs/x/result.json")
    with pytest.raises(PermissionError, match="Permission denied"):
        Group().agree(looks(*[refused] * 5), lambda value: value, "it")


def test_ranks_that_never_do_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, *[8] * 5)
    with pytest.raises(RuntimeError, match=r"the workers disagree on the step: \['4', '8'\]"):
        Group(0, 2).agree(looks(*[4] * 5), lambda value: value, "the step")
