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
    """One question: the prompt that the model sees, and what its answer is compared with."""

    id: str
    """Unique in a benchmark."""
    prompt: str
    """What the model continues."""
    reference: str
    """The text whose bits per byte are measured after the prompt."""
    choices: tuple[str, ...] = ()
    """The continuations of a multiple-choice question."""
    answer: str = ""
    """The gold answer."""
    tests: tuple[str, ...] = ()
    """Statements that raise if a generated program is wrong."""
    entry_point: str = ""
    """The name of the function that a generated program defines."""
    setup: str = ""
    """Code that runs before the tests."""
    stub: str | None = None
    """How a generated program begins; None: with the prompt."""
    answers: tuple[str, ...] = ()
    """All right answers, if there are several."""
    labels: tuple[bool, ...] = ()
    """Which of the choices are true."""
    group: str = ""
    """Items of one group (a task, a language) are averaged first, if the protocol says so."""
    cluster: str = ""
    """Items of one cluster share a source, so their errors are not independent."""
    passages: tuple[str, ...] = ()
    """Parts of the prompt that the benchmark may shorten to fit the model's context."""
    chat: ChatItem | None = None
    """How it is asked in a prompt format."""


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
    """The model's answer to one item, and its scores."""

    id: str
    """The item's."""
    prompt_sha256: str
    """The fingerprint of the prompt."""
    output: str
    """The completion; the first one, if several were drawn."""
    extracted: str | None
    """The answer found in the output; None if there is none."""
    score: float
    """In the benchmark's primary metric; higher is better."""
    reference_nats: float
    """The negative log-likelihood of the reference after the prompt, in nats, at least 0."""
    reference_bytes: int
    """The length of the reference in UTF-8 bytes."""
    tokens: int
    """The number of generated tokens."""
    truncated: bool
    """Whether a completion reached the token limit."""
    group: str = ""
    """The item's."""
    cluster: str = ""
    """The item's."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Further metrics by name."""
    samples: tuple[Sample, ...] = ()
    """All completions, if several were drawn."""
    reason: str = ""
    """Why a program failed."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What `Benchmark.corpus_metrics` is computed from, as plain values."""


@dataclass(frozen=True)
class BenchmarkResult:
    """The outcome of one benchmark, with its uncertainty over the sampling of items."""

    name: str
    """The benchmark's."""
    metric: str
    """The primary metric."""
    score: float
    """The value of the primary metric; higher is always better, so bits per byte are negative."""
    standard_error: float
    """Of the score; NaN if unknown, as for a single item."""
    n: int
    """The number of items."""
    metrics: Mapping[str, float]
    """All metrics by name, bits per byte as a positive number."""
    records: tuple[ItemRecord, ...] = field(repr=False)
    """One per item, in order."""
    protocol_sha256: str
    """The fingerprint of the protocol; see `protocol_sha256`."""
    sandbox_level: str | None
    """The isolation of generated programs; None if there are none."""
    low: float = math.nan
    """The lower end of the 95 % interval of the score."""
    high: float = math.nan
    """The upper end."""
    aggregation: Aggregation = "items"
    """Whether the score is a mean over items, or over groups of their means."""


class Benchmark(ABC):
    """A data format, a protocol (prompt, decoding, extraction) and a primary metric.

    A benchmark of your own sets `name` and `metric`, and implements `load`, `score` and
    `protocol`.
    """

    name: str
    """As tables show it."""
    metric: str
    """The primary metric: accuracy, pass@k, f1, mc2, bits_per_byte or one of your own."""
    sandbox_level: str | None = None
    """The isolation of generated programs."""
    aggregation: Aggregation = "items"
    """Whether the score is a mean over items, or over groups of their means."""
    asks: bool = True
    """Whether items are questions; if not, they are texts that go on."""
    splits_are_files: bool = False
    """Whether validation and test items must be two files."""
    mean_of_items: bool = True
    """Whether the primary metric is a mean of the items' scores."""

    @abstractmethod
    def load(self, path: Path, split: Split) -> list[Item]:
        """Read the items of a split.

        No item is in both "validation" and "test". "all" is the published test set, for scores
        that are compared with published ones.

        Raises:
            DataError: a row cannot be read; names file and line.
            NoRowsError: the file, or the split, has no rows.
        """

    @abstractmethod
    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order; an empty list for no items."""

    @abstractmethod
    def protocol(self) -> dict[str, object]:
        """All that a score depends on besides model and data, as JSON values."""

    def corpus_metrics(self, records: Sequence[ItemRecord]) -> Mapping[str, float]:
        """Metrics of all records together that are not means over them, such as BLEU."""
        return {}


def protocol_sha256(benchmark: Benchmark, add_bos: bool | None = None) -> str:
    """The fingerprint of a protocol: scores may be compared only if it is equal.

    Args:
        benchmark: with its protocol.
        add_bos: of the model, see `TextModel.add_bos`.

    Returns:
        64 hexadecimal digits.
    """
    rules: dict[str, object] = {**benchmark.protocol(), "encoding": ENCODING}
    if add_bos is not None:
        rules["add_bos"] = add_bos
    text = json.dumps(rules, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def items_sha256(items: Sequence[Item]) -> str:
    """The fingerprint of items, of all their fields and their order: 64 hexadecimal digits."""
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
