"""What a benchmark is: items with references, records with scores, and one result."""

from __future__ import annotations

import hashlib
import json
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

from evaluators.protocol import Aggregation
from evaluators.statistics import (
    clustered_standard_error,
    independent_number,
    mean_and_standard_error,
    mean_over_groups,
    normal_interval,
    ratio_standard_error,
    wilson_interval,
)
from evaluators.text_model import TextModel
from evaluators.tokens import ENCODING

Split = Literal["validation", "test", "all"]
RESAMPLES = 100
"""Of the items, for the error of a metric that is no mean over them."""


@dataclass(frozen=True)
class Item:
    """One question: the prompt the model sees and what its answer is held against.

    `reference` is the text whose bits per byte are measured after `prompt`; `answer` the gold
    answer that is compared, `answers` all that are right where there are several, `labels` which
    of the `choices` are true. Generated programs have `tests`, statements that raise, `setup`, run
    before the tests, and the name `entry_point`; they begin with `stub`, or with the prompt where
    that is None. Items of one `group` are averaged first where a protocol says so; items of one
    `cluster` share a source and err together. `passages` are parts of the prompt that the
    benchmark may shorten to the model's tokens. `chat`: how it is asked in a prompt format.
    """

    id: str
    prompt: str
    reference: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    tests: tuple[str, ...] = ()
    entry_point: str = ""
    setup: str = ""
    stub: str | None = None
    answers: tuple[str, ...] = ()
    labels: tuple[bool, ...] = ()
    group: str = ""
    cluster: str = ""
    passages: tuple[str, ...] = ()
    chat: ChatItem | None = None


@dataclass(frozen=True)
class ChatItem:
    """What a user asks where the model is asked in a prompt format, see `prompt_formats`.

    `question`: instead of the item's prompt, where it is not that. `opening` begins the answer,
    which the model continues. `shots` are (question, answer) of demonstrations, as turns before.
    `stops` end the answer, besides the protocol's.
    """

    question: str = ""
    opening: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    stops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One of several completions drawn for an item."""

    output: str
    extracted: str | None
    score: float
    tokens: int
    truncated: bool
    reason: str = ""


@dataclass(frozen=True)
class ItemRecord:
    """What the model made of one item.

    `score` is in the benchmark's primary metric, higher is better. `reference_nats` >= 0 is the
    cost of the reference after the prompt, `reference_bytes` its UTF-8 length. `tokens` were
    generated; `extracted` is None where no answer could be found in the output. `scores` holds
    further metrics by name. `samples` are all completions where several were drawn: `output`,
    `extracted` and `reason` are then the first one's, `truncated` tells whether any was cut off.
    `reason` says why a program failed. `parts` are what
    `Benchmark.corpus_metrics` is computed from, as plain values.
    """

    id: str
    prompt_sha256: str
    output: str
    extracted: str | None
    score: float
    reference_nats: float
    reference_bytes: int
    tokens: int
    truncated: bool
    group: str = ""
    cluster: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    reason: str = ""
    parts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkResult:
    """The outcome of one benchmark: `score` is the primary metric, higher is always better.

    [`low`, `high`] is its 95 % interval, over repeated draws of the items.
    """

    name: str
    metric: str
    score: float
    standard_error: float
    n: int
    metrics: Mapping[str, float]
    records: tuple[ItemRecord, ...] = field(repr=False)
    protocol_sha256: str
    sandbox_level: str | None
    low: float = math.nan
    high: float = math.nan
    aggregation: Aggregation = "items"


class Benchmark(ABC):
    """A data format, a protocol (prompt, decoding, extraction) and a primary metric."""

    name: str
    metric: str  # the primary one: "accuracy", "pass@k", "f1", "mc2" or "bits_per_byte"
    sandbox_level: str | None = None
    aggregation: Aggregation = "items"
    asks: bool = True  # its items are questions, and not texts that go on
    splits_are_files: bool = False  # the validation items are not told from the test's otherwise
    mean_of_items: bool = True  # the primary metric is a mean of the items' scores

    @abstractmethod
    def load(self, path: Path, split: Split) -> list[Item]:
        """Read the items of `split`; raises DataError naming file and line.

        No item is in both "validation" and "test"; "all" are those that were published as the
        test, so that the score can be compared with others'.
        """

    @abstractmethod
    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order; an empty list for no items."""

    @abstractmethod
    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on; JSON-serialisable."""

    def corpus_metrics(self, records: Sequence[ItemRecord]) -> Mapping[str, float]:
        """Metrics of all records together that are no means over them, such as BLEU."""
        return {}


def protocol_sha256(benchmark: Benchmark, add_bos: bool | None = None) -> str:
    """The fingerprint of the protocol: equal only where scores may be compared.

    `add_bos`: of the model that was asked, see `TextModel`.
    """
    rules: dict[str, object] = {**benchmark.protocol(), "encoding": ENCODING}
    if add_bos is not None:
        rules["add_bos"] = add_bos
    text = json.dumps(rules, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def items_sha256(items: Sequence[Item]) -> str:
    """The fingerprint of the data: of all that the items hold, in order."""
    digest = hashlib.sha256()
    for item in items:
        *held, _ = astuple(item)  # `chat` says the same as the prompt
        digest.update(json.dumps(held, ensure_ascii=False).encode())
    return digest.hexdigest()


def bits_per_byte(nats: float, size: int) -> float:
    """Bits needed per UTF-8 byte of a text of `size` bytes that costs `nats`."""
    return nats / math.log(2) / max(size, 1)


def summarise(
    benchmark: Benchmark, records: Sequence[ItemRecord], add_bos: bool | None = None
) -> BenchmarkResult:
    """Aggregate `records` (at least one) into a result.

    Accuracy-like metrics are means over items, or over groups of their means. Bits per byte are
    pooled, total bits over total bytes, so that short references do not dominate; their standard
    error is the ratio estimator's.
    """
    if not records:
        raise ValueError(f"{benchmark.name}: no items to summarise; expected at least one")
    nats = [record.reference_nats for record in records]
    sizes = [record.reference_bytes for record in records]
    pooled = bits_per_byte(sum(nats), sum(sizes))
    count = len(records)
    metrics = {
        "bits_per_byte": pooled,
        "truncated_fraction": sum(record.truncated for record in records) / count,
        "extraction_failures": sum(record.extracted is None for record in records) / count,
    }
    for name in records[0].scores:
        metrics[name] = _mean(benchmark, records, [record.scores[name] for record in records])
    metrics |= benchmark.corpus_metrics(records)
    if benchmark.metric == "bits_per_byte":
        error = ratio_standard_error([bits_per_byte(value, 1) for value in nats], sizes)
        score, (low, high) = -pooled, normal_interval(-pooled, error)
    else:
        estimate = _estimate if benchmark.mean_of_items else _resampled
        score, error, low, high = estimate(benchmark, records)
        metrics[benchmark.metric] = score
    return BenchmarkResult(
        name=benchmark.name,
        metric=benchmark.metric,
        score=score,
        standard_error=error,
        n=count,
        metrics=metrics,
        records=tuple(records),
        protocol_sha256=protocol_sha256(benchmark, add_bos),
        sandbox_level=benchmark.sandbox_level,
        low=low,
        high=high,
        aggregation=benchmark.aggregation,
    )


def _estimate(
    benchmark: Benchmark, records: Sequence[ItemRecord]
) -> tuple[float, float, float, float]:
    """Score, standard error and the ends of the 95 % interval."""
    values = [record.score for record in records]
    clusters = [record.cluster or record.id for record in records]
    groups = None
    if benchmark.aggregation == "groups":
        groups = [record.group for record in records]
        score, error = mean_over_groups(values, groups, clusters)
    else:
        score = mean_and_standard_error(values)[0]
        error = clustered_standard_error(values, clusters)
    alone = groups is None and len(set(clusters)) == len(clusters)
    if error > 0 and not (alone and set(values) <= {0.0, 1.0}):
        low, high = normal_interval(score, error)
        return score, error, max(0.0, low), min(1.0, high)
    # The normal one has no width where all are right, or none, and none is known for one value.
    if groups is not None and math.isnan(error):
        return score, error, 0.0, 1.0
    n = independent_number(clusters, groups)
    return score, error, *wilson_interval(min(max(score, 0.0), 1.0) * n, n)


def _resampled(
    benchmark: Benchmark, records: Sequence[ItemRecord]
) -> tuple[float, float, float, float]:
    """As `_estimate`, for a metric of the corpus: the error by a bootstrap over items."""

    def value(some: Sequence[ItemRecord]) -> float:
        return benchmark.corpus_metrics(some)[benchmark.metric]

    score, draw = value(records), random.Random(0)
    drawn = [value(draw.choices(records, k=len(records))) for _ in range(RESAMPLES)]
    error = stdev(drawn) if len(records) > 1 else math.nan
    return score, error, *normal_interval(score, error)


def _mean(benchmark: Benchmark, records: Sequence[ItemRecord], values: Sequence[float]) -> float:
    if benchmark.aggregation == "items":
        return mean_and_standard_error(values)[0]
    groups = [record.group for record in records]
    return mean_over_groups(values, groups, [record.id for record in records])[0]
