"""Names that a user typed: checked, with the nearest right one in the error."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Final

# What PEFT puts behind the name of the module that it adapts.
_ADAPTER: Final = re.compile(
    r"\.(base_layer|original_module|modules_to_save"
    r"|(lora|ia3|vera|hada|lokr|oft|boft|shira|supertuning|randlora|fourierft|bone|miss)_\w+)(\.|$)"
)


def one_of(what: str, found: str, expected: Sequence[str]) -> None:
    """Raise ValueError unless `found` is among the expected names."""
    if found not in expected:
        raise ValueError(
            f"{what}: expected one of {', '.join(expected)}, found {found!r}"
            f"{nearest(found, expected)}"
        )


def nearest(found: object, expected: Sequence[str]) -> str:
    """The end of an error: "; did you mean 'gmt'?", or nothing where no name is near."""
    near = difflib.get_close_matches(str(found), expected, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def checked_patterns(what: str, found: object) -> tuple[str, ...]:
    """One pattern or several as a tuple; ValueError where they are anything but text."""
    patterns = (found,) if isinstance(found, str) else found
    if not isinstance(patterns, Iterable):
        raise ValueError(f"{what}: expected patterns such as '*.bias', found {found!r}")
    checked = tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in checked):
        raise ValueError(f"{what}: expected patterns such as '*.bias', found {found!r}")
    return checked


def matching(what: str, patterns: Sequence[str], names: Sequence[str]) -> frozenset[str]:
    """The names that any pattern fits (as file names: *, ?, [...]).

    Raises ValueError for a pattern that fits none, since it is a spelling mistake.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not fits:
            example = nearest(pattern.strip("*"), names) or f"; there is {', '.join(names[:3])}"
            raise ValueError(f"{what}: no parameter is called {pattern!r}{example}")
        found.update(fits)
    return frozenset(found)


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers put into it (DDP, compile, checkpointing)."""
    for wrapper in ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."):
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def module_kind(name: str) -> str:
    """The innermost module's name that is no number (q_proj), that of the module PEFT adapts."""
    plain = plain_name(name)
    adapted = _ADAPTER.search(plain)
    path = (plain[: adapted.start()] + ".weight" if adapted else plain).split(".")
    words = [word for word in path if not word.isdigit()]
    return words[-2] if len(words) > 1 else words[-1]
