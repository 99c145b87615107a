"""What the domains share: their words, the split of a content, and drawing distinct items."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import yaml

Split = Literal["train", "validation", "test"]
Row = dict[str, object]
"""One JSON line of a data file."""

_ATTEMPTS_PER_ITEM = 2000
WORDS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("words.yaml").read_text(encoding="utf-8")
)
"""The words and sentences of each domain."""


class Drawn(Protocol):
    """A drawn question with its answer."""

    @property
    def content(self) -> str:
        """What the splits are disjoint by."""

    @property
    def prompt(self) -> str:
        """The question as the model sees it."""

    @property
    def response(self) -> str:
        """The answer as the model should give it."""


T = TypeVar("T", bound=Drawn)
Draw = Callable[[random.Random], T]


def split_of(content: str) -> Split:
    """Return the split of a piece of content: 60 % train, 15 % validation, 25 % test.

    A hash of the content decides, so that no draw can put it into two splits.
    """
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4], "big") % 100
    if bucket < 60:
        return "train"
    return "validation" if bucket < 75 else "test"


def collect(draw: Draw[T], split: Split, count: int, seed: int) -> list[T]:
    """Draw `count` items whose content is in `split` and whose prompts all differ.

    Raises ValueError when the generator has too few different items for `count`.
    """
    rng = random.Random(f"{seed}/{split}")
    items: dict[str, T] = {}
    for _ in range(count * _ATTEMPTS_PER_ITEM):
        if len(items) == count:
            break
        item = draw(rng)
        if split_of(item.content) == split:
            items.setdefault(item.prompt, item)
    if len(items) < count:
        raise ValueError(
            f"asked for {count} different {split} items, the generator has {len(items)}"
        )
    return list(items.values())
