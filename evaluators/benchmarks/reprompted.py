"""Any benchmark, asked in a prompt format, after a system prompt and demonstrations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from evaluators.benchmark import Benchmark, ChatItem, Item, ItemRecord, Split
from evaluators.errors import DataError
from evaluators.prompt_formats import turn_ends, written
from evaluators.protocol import Changes, Protocol
from evaluators.text_model import TextModel


def asked(benchmark: Benchmark, changes: Changes) -> Benchmark:
    """`benchmark`, with the demonstrations, system prompt and prompt format of `changes`.

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
    form = rules.prompt_format if isinstance(rules, Protocol) else "raw"
    chosen = changes.prompt_format if benchmark.asks else None
    if form != "raw" and chosen == "raw":
        raise ValueError(
            f"{benchmark.name}: the preset uses the prompt format {form}; expected another "
            "preset, or a format other than 'raw'"
        )
    form = chosen or form
    if form == "raw":
        if benchmark.asks and changes.fewshot_as is not None:
            raise ValueError(f"{benchmark.name}: fewshot_as: requires a prompt_format")
        if changes.system_prompt is None and (own or not changes.shots):
            return benchmark
        changes = replace(changes, prompt_format=None, fewshot_as=None)
    return _Asked(benchmark, replace(changes, shots=None) if own else changes, form)


@final
class _Asked(Benchmark):
    def __init__(self, inner: Benchmark, changes: Changes, form: str) -> None:
        self.name, self.metric = inner.name, inner.metric
        self.sandbox_level, self.aggregation = inner.sandbox_level, inner.aggregation
        self.splits_are_files, self.mean_of_items = inner.splits_are_files, inner.mean_of_items
        self._inner, self._changes, self._form = inner, changes, form

    def load(self, path: Path, split: Split) -> list[Item]:
        """The items of `split`, demonstrations included, which are always validation items."""
        items = self._inner.load(path, split)
        pool = self._pool(path, split) if self._changes.shots else []
        return [
            self._with_demonstrations(item, self._demonstrations(pool, item)) for item in items
        ]

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        if self._form != "raw":
            tokenizer = getattr(lm, "tokenizer", None)
            ends = turn_ends(self._form, tokenizer)
            items = [self._written(item, tokenizer, ends) for item in items]
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

    def _demonstrations(self, pool: Sequence[Item], item: Item) -> Sequence[Item]:
        """The first items of the pool, those of the item's group before others, never itself."""
        shots = self._changes.shots or 0
        others = [each for each in pool if each.prompt != item.prompt]
        others.sort(key=lambda each: each.group != item.group)
        if len(others) < shots:
            raise DataError(
                f"{self.name}: expected {shots} validation items besides {item.id!r} to "
                f"demonstrate with, found {len(others)}"
            )
        return others[:shots]

    def _with_demonstrations(self, item: Item, shown: Sequence[Item]) -> Item:
        """`item` after the system prompt and `shown`; in a prompt format these wait for it."""
        text = "".join(f"{each.prompt}{_solution(each)}\n\n" for each in shown)
        if self._form == "raw":
            system = self._changes.system_prompt
            head = "" if system is None else f"{system}\n\n"
            return _after(item, head + text)
        chat = _chat(item)
        if self._changes.fewshot_as == "text":
            return replace(item, chat=replace(chat, question=text + item.prompt))
        turns = ((_chat(each).question, _answer(each)) for each in shown)
        return replace(item, chat=replace(chat, shots=tuple(turns)))

    def _written(self, item: Item, tokenizer: object, ends: tuple[str, ...]) -> Item:
        """`item` with its prompt in the prompt format, and the texts that may follow it."""
        chat, system = _chat(item), self._changes.system_prompt
        turns = [("system", system)] if system is not None else []
        for question, answer in chat.shots:
            turns += [("user", question), ("assistant", answer)]
        messages = [
            {"role": role, "content": text} for role, text in (*turns, ("user", chat.question))
        ]
        prompt = written(self._form, tokenizer, messages)
        if chat.opening:
            prompt += chat.opening if prompt[-1].isspace() else f" {chat.opening}"
        item = replace(_after(item, ""), prompt=prompt, chat=replace(chat, stops=ends))
        if chat.opening or item.tests or not prompt[-1].isspace():
            return item
        # The space before an answer is the prompt's now.
        return replace(
            item,
            reference=item.reference.lstrip(),
            choices=tuple(each.lstrip() for each in item.choices),
        )


def _chat(item: Item) -> ChatItem:
    """How `item` is asked in a prompt format: by its prompt, unless it says otherwise."""
    chat = item.chat or ChatItem()
    return replace(chat, question=chat.question or item.prompt)


def _answer(item: Item) -> str:
    """A demonstration's answer, with the opening that the model would continue."""
    return f"{_chat(item).opening}{_solution(item)}".strip()


def _after(item: Item, head: str) -> Item:
    """`item` with its prompt after `head`, which belongs to no program."""
    stub = item.prompt if item.stub is None and item.tests else item.stub
    return replace(item, prompt=head + item.prompt, stub=stub)


def _solution(item: Item) -> str:
    return item.choices[int(item.answer)] if item.choices and item.answer else item.reference
