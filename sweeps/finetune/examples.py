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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evaluators.benchmark import Item
from sweeps.finetune.benchmarks import build_benchmark, load_items
from sweeps.finetune.example import Example, Row, RowError, in_chat_template
from sweeps.finetune.finetune_config import BenchmarkConfig, DataConfig
from sweeps.finetune.sources import read_source
from sweeps.finetune.training_sets import TRAINING_SETS

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
    """Whether the conversation or response contains an n-gram of `against`, all of one length."""
    size = len(next(iter(against), ()))
    texts = (*(turn.text for turn in example.conversation()), example.response)
    return size > 0 and any(
        ngram in against for text in texts for ngram in _ngrams(_words(text), size)
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
    """

    examples: int = 0
    bad_rows: int = 0
    held_out: int = 0
    contaminated: int = 0
    left_out: int = 0
    truncated: int = 0
    no_target: int = 0

    def metrics(self) -> dict[str, float]:
        """The counts as `data/<name>`."""
        return {f"data/{name}": float(count) for name, count in vars(self).items()}


def read_examples(
    config: DataConfig, benchmarks: Sequence[BenchmarkConfig] = (), tokenizer: Any = None
) -> tuple[list[Example], DataCounts]:
    """The examples to train on, in row order, and the counts of those left out.

    `benchmarks` are read if `config.decontaminate` is set; `tokenizer` provides the chat template.
    RowError names file and line of a bad row, unless bad rows are skipped.
    """
    against = None
    if config.decontaminate is not None:
        against = benchmark_ngrams(benchmarks, config.decontaminate)
    found: list[Example] = []
    bad_rows: list[RowError] = []
    held_out = contaminated = 0
    for outcome in _outcomes(config, tokenizer):
        if isinstance(outcome, RowError):
            if config.on_bad_row == "stop":
                raise outcome
            bad_rows.append(outcome)
            continue
        for example in outcome:
            if config.part == "train" and example.is_held_out:
                held_out += 1
            elif against is not None and is_contaminated(example, against):
                contaminated += 1
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
    counts = DataCounts(
        examples=len(kept),
        bad_rows=len(bad_rows),
        held_out=held_out,
        contaminated=contaminated,
        left_out=len(found) - len(kept),
    )
    return kept, counts


def _by_kind(bad_rows: Sequence[RowError]) -> str:
    """The first row of each kind of error, by what was expected, with the number of such rows."""
    kinds: dict[str, list[RowError]] = {}
    for row in bad_rows:
        expected = str(row).partition(": expected ")[2].partition(", found ")[0]
        kinds.setdefault(expected, []).append(row)
    first, *others = kinds.values()
    return "; ".join([str(first[0]), *(f"{len(kind)} such as: {kind[0]}" for kind in others)])


def _outcomes(config: DataConfig, tokenizer: Any) -> Iterator[list[Example] | RowError]:
    """For each row, all of its examples or its error, never part of a row."""
    read = TRAINING_SETS[config.format]
    for row in read_source(config):
        if isinstance(row, RowError):
            yield row
            continue
        try:
            yield [_in_template(each, row, config, tokenizer) for each in read(row)]
        except RowError as error:
            yield error


def _in_template(example: Example, row: Row, config: DataConfig, tokenizer: Any) -> Example:
    """The example, written by the tokenizer's chat template if configured."""
    if config.template == "own":
        if example.only_chat:
            row.fail(
                f"data.template 'chat', whose template can write '{example.only_chat}'",
                f"'{config.template}', which has no place for it",
            )
        return example
    if tokenizer is None:
        return example
    try:
        return replace(example, in_chat=in_chat_template(tokenizer, example))
    except RowError as error:
        raise RowError(f"{row.place}: {error}") from error


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
    return hashlib.sha256(f"{example.prompt}\0{example.response}".encode()).digest()
