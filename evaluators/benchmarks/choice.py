"""What multiple-choice benchmarks share: the most likely choice is the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evaluators.benchmark import Benchmark, Item, ItemRecord
from evaluators.benchmarks.generative import cost_record, reference_costs
from evaluators.protocol import Protocol
from evaluators.text_model import LogLikelihood, TextModel

NORMALISED = "accuracy_norm"


class ChoiceBenchmark(Benchmark):
    """Accuracy of the choice with the highest log-likelihood after the prompt.

    "accuracy_norm" divides each by the number of the choice's characters, as lm-eval's acc_norm.
    `item.answer` is the index of the right choice; ties go to the first. A model to which every
    choice is impossible has given no answer.
    """

    def __init__(self, metric: str, rules: Protocol) -> None:
        self.metric = metric
        self.rules = rules
        self.aggregation = rules.aggregation

    def record(
        self, item: Item, cost: LogLikelihood, scores: Sequence[LogLikelihood]
    ) -> ItemRecord:
        """The record of an item, from the log-likelihoods of its choices."""
        nats = [each.nats for each in scores]
        sizes = [max(1, len(choice.strip())) for choice in item.choices]
        by_metric = {
            "accuracy": most_likely(nats),
            NORMALISED: most_likely([n / size for n, size in zip(nats, sizes, strict=True)]),
        }
        right = {name: float(place == int(item.answer)) for name, place in by_metric.items()}
        chosen = by_metric[self.metric]
        return cost_record(
            item,
            cost,
            output="" if chosen is None else item.choices[chosen],
            extracted=None if chosen is None else str(chosen),
            score=right[self.metric],
            scores=right,
        )

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        if self.metric == "bits_per_byte":
            costs = reference_costs(lm, items)
            return [cost_record(item, cost) for item, cost in zip(items, costs, strict=True)]
        # One call for references and choices: equal texts are then scored once.
        pairs = [(item.prompt, text) for item in items for text in (item.reference, *item.choices)]
        scores = iter(lm.loglikelihood(pairs))
        return [
            self.record(item, next(scores), [next(scores) for _ in item.choices]) for item in items
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {"benchmark": self.name, "metric": self.metric, "rules": self.rules.rules()}


def most_likely(nats: Sequence[float]) -> int | None:
    """The index of the most likely choice, the first of equals; None where none is possible."""
    best = max(range(len(nats)), key=nats.__getitem__)
    return best if nats[best] > -math.inf else None
