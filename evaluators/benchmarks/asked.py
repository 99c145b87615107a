"""Any benchmark, asked after a system prompt and demonstrations of the user's choice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from evaluators.benchmark import Benchmark, Item, ItemRecord, Split
from evaluators.errors import DataError
from evaluators.protocol import Changes, Protocol
from evaluators.text_model import TextModel


def asked(benchmark: Benchmark, changes: Changes) -> Benchmark:
    """`benchmark`, with the demonstrations and the system prompt of `changes`.

    Raises ValueError where its protocol has demonstrations of its own, which cannot be replaced.
    """
    rules = getattr(benchmark, "rules", None)
    own = rules.shots if isinstance(rules, Protocol) else 0
    other = changes.shots not in (None, own) or changes.fewshot_seed is not None
    if own and other:
        raise ValueError(
            f"{benchmark.name}: the protocol has {own} demonstrations of its own; expected no "
            "shots, or a preset without demonstrations"
        )
    if changes.system_prompt is None and (own or not changes.shots):
        return benchmark
    return _Asked(benchmark, replace(changes, shots=None) if own else changes)


@final
class _Asked(Benchmark):
    def __init__(self, inner: Benchmark, changes: Changes) -> None:
        self.name, self.metric = inner.name, inner.metric
        self.sandbox_level, self.aggregation = inner.sandbox_level, inner.aggregation
        self.splits_are_files, self.mean_of_items = inner.splits_are_files, inner.mean_of_items
        self._inner, self._changes = inner, changes

    def load(self, path: Path, split: Split) -> list[Item]:
        """The items of `split`, prompts included; demonstrations are always validation items."""
        items = self._inner.load(path, split)
        pool = self._pool(path, split) if self._changes.shots else []
        system = self._changes.system_prompt
        head = "" if system is None else f"{system}\n\n"
        return [_after(item, head + self._demonstrations(pool, item)) for item in items]

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        return self._inner.score(lm, items)

    def corpus_metrics(self, records: Sequence[ItemRecord]) -> Mapping[str, float]:
        """Metrics of all records together."""
        return self._inner.corpus_metrics(records)

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {**self._inner.protocol(), "changes": self._changes.rules()}

    def _pool(self, path: Path, split: Split) -> list[Item]:
        """The validation items, in the order in which they are taken."""
        source = self._changes.shots_from
        if source is None and self.splits_are_files and split != "validation":
            raise DataError(
                f"{self.name}: demonstrations come from validation items; expected their file as "
                "shots_from"
            )
        pool = self._inner.load(path if source is None else Path(source), "validation")
        random.Random(self._changes.fewshot_seed or 0).shuffle(pool)
        return pool

    def _demonstrations(self, pool: Sequence[Item], item: Item) -> str:
        """The first items of the pool, those of the item's group before others, never itself."""
        shots = self._changes.shots or 0
        others = [each for each in pool if each.prompt != item.prompt]
        others.sort(key=lambda each: each.group != item.group)
        if len(others) < shots:
            raise DataError(
                f"{self.name}: expected {shots} validation items besides {item.id!r} to "
                f"demonstrate with, found {len(others)}"
            )
        return "".join(f"{each.prompt}{_solution(each)}\n\n" for each in others[:shots])


def _after(item: Item, head: str) -> Item:
    """`item` with its prompt after `head`, which belongs to no program."""
    stub = item.prompt if item.stub is None and item.tests else item.stub
    return replace(item, prompt=head + item.prompt, stub=stub)


def _solution(item: Item) -> str:
    return item.choices[int(item.answer)] if item.choices and item.answer else item.reference
