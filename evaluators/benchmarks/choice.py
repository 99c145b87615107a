"""What multiple-choice benchmarks share: the most likely choice is the answer."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.benchmark import Benchmark, Item, ItemRecord
from evaluators.benchmarks.generative import cost_record, reference_costs
from evaluators.language_model import LogLikelihood, TextModel


class ChoiceBenchmark(Benchmark):
    """Accuracy of the choice with the highest log-likelihood after the prompt.

    `item.answer` is the index of the right choice; ties go to the first.
    """

    version: str

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        if self.metric == "bits_per_byte":
            costs = reference_costs(lm, items)
            return [cost_record(item, cost) for item, cost in zip(items, costs, strict=True)]
        # One call for references and choices: equal texts are then scored once.
        pairs = [(item.prompt, text) for item in items for text in (item.reference, *item.choices)]
        scores = iter(lm.loglikelihood(pairs))
        return [
            _record(item, next(scores), [next(scores) for _ in item.choices]) for item in items
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {
            "benchmark": self.name,
            "metric": self.metric,
            "version": self.version,
            "extraction": "argmax of the summed log-likelihood of the choices",
        }


def _record(item: Item, cost: LogLikelihood, scores: Sequence[LogLikelihood]) -> ItemRecord:
    chosen = max(range(len(scores)), key=lambda index: scores[index].nats)
    return cost_record(
        item,
        cost,
        output=item.choices[chosen],
        extracted=str(chosen),
        score=float(chosen == int(item.answer)),
    )
