"""What a benchmark is: items with references, records with scores, and one result."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evaluators.language_model import TextModel
from evaluators.statistics import mean_and_standard_error, ratio_standard_error

Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Item:
    """One question: the prompt the model sees and what its answer is held against.

    `reference` is the text whose bits per byte are measured after `prompt`; `answer` the gold
    answer that is compared. Generated programs have `tests`, statements that raise, `setup`, run
    before the tests, and the name `entry_point`.
    """

    id: str
    prompt: str
    reference: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    tests: tuple[str, ...] = ()
    entry_point: str = ""
    setup: str = ""


@dataclass(frozen=True)
class ItemRecord:
    """What the model made of one item.

    `score` is in the benchmark's primary metric, higher is better. `reference_nats` >= 0 is the
    cost of the reference after the prompt, `reference_bytes` its UTF-8 length. `tokens` were
    generated; `extracted` is None where no answer could be found in the output.
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


@dataclass(frozen=True)
class BenchmarkResult:
    """The outcome of one benchmark: `score` is the primary metric, higher is always better."""

    name: str
    metric: str
    score: float
    standard_error: float
    n: int
    metrics: Mapping[str, float]
    records: tuple[ItemRecord, ...] = field(repr=False)
    protocol_sha256: str
    sandbox_level: str | None


class Benchmark(ABC):
    """A data format, a protocol (prompt, decoding, extraction) and a primary metric."""

    name: str
    metric: str  # the primary one: "accuracy", "pass@1", "f1" or "bits_per_byte"
    sandbox_level: str | None = None

    @abstractmethod
    def load(self, path: Path, split: Split) -> list[Item]:
        """Read the items of `split`; raises DataError naming file and line."""

    @abstractmethod
    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order; an empty list for no items."""

    @abstractmethod
    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on; JSON-serialisable."""


def protocol_sha256(benchmark: Benchmark) -> str:
    """The fingerprint of the protocol: equal only where scores may be compared."""
    text = json.dumps(benchmark.protocol(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def bits_per_byte(nats: float, size: int) -> float:
    """Bits needed per UTF-8 byte of a text of `size` bytes that costs `nats`."""
    return nats / math.log(2) / max(size, 1)


def summarise(benchmark: Benchmark, records: Sequence[ItemRecord]) -> BenchmarkResult:
    """Aggregate `records` (at least one) into a result.

    Accuracy-like metrics are means over items. Bits per byte are pooled, total bits over total
    bytes, so that short references do not dominate; their standard error is the ratio
    estimator's.
    """
    if not records:
        raise ValueError(f"{benchmark.name}: no items to summarise; expected at least one")
    nats = [record.reference_nats for record in records]
    sizes = [record.reference_bytes for record in records]
    pooled = bits_per_byte(sum(nats), sum(sizes))
    if benchmark.metric == "bits_per_byte":
        primary, score = pooled, -pooled
        error = ratio_standard_error([bits_per_byte(value, 1) for value in nats], sizes)
    else:
        score, error = mean_and_standard_error([record.score for record in records])
        primary = score
    count = len(records)
    metrics = {
        "bits_per_byte": pooled,
        "truncated_fraction": sum(record.truncated for record in records) / count,
        "extraction_failures": sum(record.extracted is None for record in records) / count,
        benchmark.metric: primary,
    }
    return BenchmarkResult(
        name=benchmark.name,
        metric=benchmark.metric,
        score=score,
        standard_error=error,
        n=count,
        metrics=metrics,
        records=tuple(records),
        protocol_sha256=protocol_sha256(benchmark),
        sandbox_level=benchmark.sandbox_level,
    )
