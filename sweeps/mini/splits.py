"""Which split a piece of content belongs to, and drawing distinct items of one split."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Literal, TypeVar

Split = Literal["train", "validation", "test"]
Row = dict[str, object]
"""One JSON line of a data file."""

T = TypeVar("T")

_ATTEMPTS_PER_ITEM = 2000


def split_of(content: str) -> Split:
    """Return the split of a piece of content: 60 % train, 15 % validation, 25 % test.

    A hash of the content decides, so that no draw can put it into two splits.
    """
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 100
    if bucket < 60:
        return "train"
    return "validation" if bucket < 75 else "test"


def collect(
    draw: Callable[[random.Random], T],
    content: Callable[[T], str],
    text: Callable[[T], str],
    split: Split,
    count: int,
    seed: int,
) -> list[T]:
    """Draw `count` items whose content is in `split` and whose texts all differ.

    Raises ValueError when the generator has too few different items for `count`.
    """
    rng = random.Random(f"{seed}/{split}")
    items: list[T] = []
    seen: set[str] = set()
    for _ in range(count * _ATTEMPTS_PER_ITEM):
        if len(items) == count:
            return items
        item = draw(rng)
        shown = text(item)
        if split_of(content(item)) == split and shown not in seen:
            seen.add(shown)
            items.append(item)
    if len(items) == count:
        return items
    raise ValueError(f"asked for {count} different {split} items, the generator has {len(items)}")
