"""Training examples that share a long n-gram of words with a benchmark's items.

As Brown et al. 2020 (arXiv 2005.14165, appendix C): words in lower case without punctuation,
n = 13 by default there, and n-grams that many items share are phrases, not leaks. The items of
both splits are read, the test items too: they decide what is left out of training, and nothing
that is compared, tuned or selected.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from evaluators.benchmark import Item
from sweeps.finetune.benchmarks import build_benchmark, load_items
from sweeps.finetune.config import BenchmarkConfig
from sweeps.finetune.example import Example

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
    """Whether the conversation or the response holds an n-gram of `against`, all of one length."""
    size = len(next(iter(against), ()))
    texts = (*(turn.text for turn in example.conversation()), example.response)
    return size > 0 and any(
        ngram in against for text in texts for ngram in _ngrams(_words(text), size)
    )


def _telling(items: Sequence[Item], n: int) -> Iterator[NGram]:
    """The n-grams of `items` but those of their common template."""
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
