"""Select the examples to train on from the rows of a source, and count what is left out.

Decontamination drops examples that share a long word n-gram with a benchmark item, as in Brown et
al. 2020 (arXiv 2005.14165, appendix C): lower-case words without punctuation, 13 of them by
default there. N-grams shared by many items are phrases, not leaks. Items of both splits are read.
The test items only decide what is left out of training, and are not used for comparison, tuning or
selection.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from evaluators.benchmark import Item
from sweeps.finetune.benchmarks import build_benchmark, load_items
from sweeps.finetune.chat_template import ChatTemplate
from sweeps.finetune.columns import renamed
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import Example, Row, RowError, Text, one_by_one
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.finetune.row_sources import read_source
from sweeps.finetune.training_sets import TRAINING_SETS

T = TypeVar("T")
NGram = tuple[str, ...]
_WORD = re.compile(r"\w+")
_COMMON = 10  # items that may share an n-gram before it counts as a phrase


def benchmark_ngrams(benchmarks: Sequence[BenchmarkConfig], n: int) -> set[NGram]:
    """The word n-grams of all items; a text shorter than `n` words has none."""
    found: set[NGram] = set()
    for config in benchmarks:
        built = build_benchmark(config)
        items = load_items(config, built, "validation") + load_items(config, built, "test")
        found.update(_telling(items, n))
    return found


def is_contaminated(example: Example, against: set[NGram]) -> bool:
    """Whether a message contains an n-gram of `against`, all of one length."""
    size = len(next(iter(against), ()))
    return size > 0 and any(
        ngram in against for turn in example.turns for ngram in _ngrams(_words(turn.text), size)
    )


def _telling(items: Sequence[Item], n: int) -> Iterator[NGram]:
    """The n-grams of `items` without those of their common template."""
    grams = [set(_item_ngrams(item, n)) for item in items]
    counts = Counter(ngram for each in grams for ngram in each)
    most = min(_COMMON, max(1, len(items) // 2))
    return (ngram for ngram, count in counts.items() if count <= most)


def _item_ngrams(item: Item, n: int) -> Iterator[NGram]:
    for text in (item.prompt, item.reference):
        yield from _ngrams(_words(text), n)


def _ngrams(words: Sequence[str], n: int) -> Iterator[NGram]:
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataCounts:
    """What happened to the rows; every skipped, truncated or dropped one is counted.

    `examples` are trained on. `held_out` belong to a benchmark, `contaminated` overlap with one,
    `left_out` exceed `train_fraction`, and `no_target` lost their whole response to `max_length`.
    `sources`: the counts of each source of a mixture, which add up to these.
    """

    examples: int = 0
    bad_rows: int = 0
    held_out: int = 0
    contaminated: int = 0
    left_out: int = 0
    truncated: int = 0
    no_target: int = 0
    sources: Mapping[str, DataCounts] = field(default_factory=dict)

    @classmethod
    def of(cls, sources: Mapping[str, DataCounts]) -> DataCounts:
        """The sums over `sources`; of a single source without a name, its own counts."""
        if "" in sources:
            return sources[""]
        totals = sum((Counter(each.numbers()) for each in sources.values()), Counter[str]())
        return cls(**totals, sources=sources)

    def numbers(self) -> dict[str, int]:
        """The counts by name, without those of the sources."""
        return {name: count for name, count in vars(self).items() if name != "sources"}

    def metrics(self, place: str = "data") -> dict[str, float]:
        """The counts as `data/<name>`, and those of a source as `data/<source>/<name>`."""
        found = {f"{place}/{name}": float(count) for name, count in self.numbers().items()}
        for name, counts in self.sources.items():
            found |= counts.metrics(f"{place}/{name}")
        return found


def by_source(config: DataConfig, read: Callable[[DataConfig], T]) -> dict[str, T]:
    """What `read` returns for each source, by name; its errors name the source."""
    found = {}
    for name, part in config.parts().items():
        try:
            found[name] = read(part)
        except ValueError as error:
            if not name:
                raise
            raise RowError(f"data.sources.{name}: {error}") from error
    return found


def read_examples(
    config: DataConfig, benchmarks: Sequence[BenchmarkConfig] = (), tokenizer: Any = None
) -> tuple[list[Example], DataCounts]:
    """The rows to train on, in order, with their texts, and the counts of those left out.

    A conversation is taken or left out as a whole. `benchmarks` are read if `config.decontaminate`
    is set; `tokenizer` provides the chat template. RowError names file and line of a bad row,
    unless bad rows are skipped.
    """
    against = None
    if config.decontaminate is not None:
        against = benchmark_ngrams(benchmarks, config.decontaminate)
    found: list[Example] = []
    bad_rows: list[RowError] = []
    held_out = contaminated = 0
    for outcome in _outcomes(config, _writer(config, tokenizer)):
        if isinstance(outcome, RowError):
            if config.on_bad_row == "stop":
                raise outcome
            bad_rows.append(outcome)
            continue
        for example in outcome:
            if config.part == "train" and example.is_held_out:
                held_out += len(example.texts)
            elif against is not None and is_contaminated(example, against):
                contaminated += len(example.texts)
            else:
                found.append(example)
    if not found:
        raise RowError(
            f"data.path {config.path}: expected at least one example of format "
            f"'{config.format}', found {len(bad_rows)} bad rows, {held_out} held out and "
            f"{contaminated} contaminated" + "".join(f"; {row}" for row in bad_rows[:1])
        )
    if bad_rows:
        _LOG.warning("skipped %d bad rows; the first: %s", len(bad_rows), _by_kind(bad_rows))
    kept = _fraction(found, config.train_fraction)
    apart = sum(len(example.texts) > 1 for example in kept)
    if apart and config.conversation == "whole":
        _LOG.warning(
            "%d conversations became an example for each answer: the chat template writes earlier "
            "answers differently from the last",
            apart,
        )
    counts = DataCounts(
        examples=_texts(kept),
        bad_rows=len(bad_rows),
        held_out=held_out,
        contaminated=contaminated,
        left_out=_texts(found) - _texts(kept),
    )
    return kept, counts


def _texts(examples: Sequence[Example]) -> int:
    return sum(len(example.texts) for example in examples)


def _by_kind(bad_rows: Sequence[RowError]) -> str:
    """The first row of each kind of error, by what was expected, with the number of such rows."""
    kinds: dict[str, list[RowError]] = {}
    for row in bad_rows:
        expected = str(row).partition(": expected ")[2].partition(", found ")[0]
        kinds.setdefault(expected, []).append(row)
    first, *others = kinds.values()
    return "; ".join([str(first[0]), *(f"{len(kind)} such as: {kind[0]}" for kind in others)])


Writer = Callable[[Example], tuple[Text, ...]]


def _outcomes(config: DataConfig, write: Writer) -> Iterator[list[Example] | RowError]:
    """For each row, all of its examples or its error, never part of a row."""
    read = TRAINING_SETS[config.format]
    for row in renamed(read_source(config), config.columns):
        if isinstance(row, RowError):
            yield row
            continue
        try:
            yield [_written(each, row, write) for each in read(row)]
        except RowError as error:
            yield error


def _written(example: Example, row: Row, write: Writer) -> Example:
    try:
        return replace(example, texts=write(example))
    except RowError as error:
        raise RowError(f"{row.place}: {error}") from error


def _writer(config: DataConfig, tokenizer: Any) -> Writer:
    """What writes an example's texts in the configured template."""
    per_turn = config.conversation == "per_turn"
    if config.template == "chat":
        return partial(ChatTemplate(tokenizer).texts, per_turn=per_turn)
    return partial(_own_texts, per_turn=per_turn)


def _own_texts(example: Example, *, per_turn: bool) -> tuple[Text, ...]:
    if example.only_chat:
        raise RowError(
            f"expected data.template 'chat', whose template can write '{example.only_chat}', "
            "found 'own', which has no place for it"
        )
    return tuple(one_by_one(example.own)) if per_turn else (example.own,)


def _fraction(examples: list[Example], fraction: float) -> list[Example]:
    """This share of the examples, at least one: those whose text has the smallest hash.

    A smaller fraction is a subset of a larger one, for any order of the file.
    """
    if fraction == 1.0:
        return examples
    count = max(1, round(fraction * len(examples)))
    ranked = sorted(range(len(examples)), key=lambda index: (_digest(examples[index]), index))
    return [examples[index] for index in sorted(ranked[:count])]


def _digest(example: Example) -> bytes:
    return hashlib.sha256("\0".join(part.text for part in example.own).encode()).digest()
