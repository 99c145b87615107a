"""What benchmarks that generate text share: decode, grade, and price the reference."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from evaluators.benchmark import Benchmark, Item, ItemRecord, bits_per_byte
from evaluators.language_model import Completion, LogLikelihood, TextModel


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding of a protocol; a new version whenever prompt or extraction change."""

    version: str
    max_new_tokens: int
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Grade:
    """The answer found in a completion (None where there is none) and its score."""

    extracted: str | None
    score: float


class GenerativeBenchmark(Benchmark):
    """A benchmark whose primary metric grades a greedy completion.

    With "bits_per_byte" as its metric nothing is generated: only the reference is priced.
    """

    decoding: Decoding
    extraction: str

    def __init__(self, metric: str) -> None:
        self.metric = metric

    @abstractmethod
    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """Grade one completion per item."""

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        costs = reference_costs(lm, items)
        if self.metric == "bits_per_byte":
            return [cost_record(item, cost) for item, cost in zip(items, costs, strict=True)]
        completions = lm.generate(
            [item.prompt for item in items],
            max_new_tokens=self.decoding.max_new_tokens,
            stops=self.decoding.stops,
        )
        grades = self.grade(items, [completion.text for completion in completions])
        return [
            _graded_record(*each) for each in zip(items, completions, grades, costs, strict=True)
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {
            "benchmark": self.name,
            "metric": self.metric,
            "extraction": self.extraction,
            **asdict(self.decoding),
        }


def reference_costs(lm: TextModel, items: Sequence[Item]) -> list[LogLikelihood]:
    """The log-likelihood of each item's reference after its prompt."""
    return lm.loglikelihood([(item.prompt, item.reference) for item in items])


def cost_record(
    item: Item,
    cost: LogLikelihood,
    *,
    output: str = "",
    extracted: str | None = "",
    score: float | None = None,
    tokens: int = 0,
    truncated: bool = False,
) -> ItemRecord:
    """A record with the reference's cost; the score is its -bits per byte unless given."""
    size = len(item.reference.encode())
    return ItemRecord(
        id=item.id,
        prompt_sha256=hashlib.sha256(item.prompt.encode()).hexdigest(),
        output=output,
        extracted=extracted,
        score=-bits_per_byte(-cost.nats, size) if score is None else score,
        reference_nats=-cost.nats,
        reference_bytes=size,
        tokens=tokens,
        truncated=truncated,
    )


def _graded_record(
    item: Item, completion: Completion, grade: Grade, cost: LogLikelihood
) -> ItemRecord:
    return cost_record(
        item,
        cost,
        output=completion.text,
        extracted=grade.extracted,
        score=grade.score,
        tokens=completion.tokens,
        truncated=completion.truncated,
    )
