"""What benchmarks that generate text share: decode, grade, and price the reference."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluators.benchmark import Benchmark, Item, ItemRecord, Sample, bits_per_byte
from evaluators.protocol import Protocol
from evaluators.sampling import Sampling, sample_seed
from evaluators.statistics import pass_at_k
from evaluators.text_model import Completion, LogLikelihood, TextModel


@dataclass(frozen=True)
class Grade:
    """The answer found in a completion (None where there is none) and its score.

    `scores` are further metrics by name, the same names for every item; `reason` says why a
    program failed.
    """

    extracted: str | None
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class GenerativeBenchmark(Benchmark):
    """A benchmark whose primary metric grades completions.

    With "bits_per_byte" as its metric nothing is generated: only the reference is priced.
    """

    def __init__(self, metric: str, rules: Protocol) -> None:
        self.metric = metric
        self.rules = rules
        self.aggregation = rules.aggregation

    @abstractmethod
    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """Grade one completion per item; an item may come more than once."""

    def prepare(self, lm: TextModel, items: Sequence[Item]) -> Sequence[Item]:
        """The items as this model is asked them."""
        return items

    def score(self, lm: TextModel, items: Sequence[Item]) -> list[ItemRecord]:
        """One record per item, in order."""
        items = self.prepare(lm, items)
        costs = reference_costs(lm, items)
        if self.metric == "bits_per_byte":
            return [cost_record(item, cost) for item, cost in zip(items, costs, strict=True)]
        drawn = self.rules.decoding.samples
        completions = self._complete(lm, items)
        repeated = [item for item in items for _ in range(drawn)]
        grades = self.grade(repeated, [completion.text for completion in completions])
        samples = [_sample(*each) for each in zip(completions, grades, strict=True)]
        return [
            self._record(
                item,
                cost,
                samples[start : start + drawn],
                [grade.scores for grade in grades[start : start + drawn]],
            )
            for item, cost, start in zip(items, costs, range(0, len(samples), drawn), strict=True)
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {"benchmark": self.name, "metric": self.metric, "rules": self.rules.rules()}

    def _complete(self, lm: TextModel, items: Sequence[Item]) -> list[Completion]:
        """All completions, those of one item side by side."""
        decoding = self.rules.decoding
        prompts = [item.prompt for item in items]
        more = next((item.chat.stops for item in items if item.chat is not None), ())
        stops = (*decoding.stops, *more)
        if decoding.temperature == 0:
            return lm.generate(prompts, max_new_tokens=decoding.max_new_tokens, stops=stops)
        draws = range(decoding.samples)
        return lm.generate(
            [prompt for prompt in prompts for _ in draws],
            max_new_tokens=decoding.max_new_tokens,
            stops=stops,
            sampling=Sampling(decoding.temperature, decoding.top_p),
            seeds=[sample_seed(item.id, draw) for item in items for draw in draws],
        )

    def _record(
        self,
        item: Item,
        cost: LogLikelihood,
        samples: Sequence[Sample],
        further: Sequence[Mapping[str, float]],
    ) -> ItemRecord:
        """The record of an item, its score the mean over its samples unless that is pass@k.

        `further` are the further metrics of each sample. Accuracy of several samples has pass@k
        and maj@k beside it, for all samples unless k is above 1; pass@k has pass@1.
        """
        first, count, k = samples[0], len(samples), self.rules.decoding.k
        score = math.fsum(sample.score for sample in samples) / count
        scores = {name: math.fsum(each[name] for each in further) / count for name in further[0]}
        if count > 1 and self.metric == f"pass@{k}":
            scores["pass@1"] = score
            score = pass_at_k(count, round(score * count), k)
        elif count > 1 and self.metric == "accuracy":
            k = k if k > 1 else count
            scores[f"pass@{k}"] = pass_at_k(count, round(score * count), k)
            scores[f"maj@{k}"] = majority(samples, k)
        return cost_record(
            item,
            cost,
            output=first.output,
            extracted=first.extracted,
            score=score,
            tokens=sum(sample.tokens for sample in samples),
            truncated=any(sample.truncated for sample in samples),
            scores=scores,
            samples=tuple(samples) if len(samples) > 1 else (),
            reason=first.reason,
        )


def majority(samples: Sequence[Sample], k: int) -> float:
    """maj@k: the score of the answer that most of k samples give (Wang et al. 2022, 2203.11171).

    The mean over consecutive runs of k samples; of equally frequent answers the first counts. A
    sample without an answer has no vote.
    """
    scores = []
    for start in range(0, len(samples) - k + 1, k):
        by_answer = {s.extracted: s.score for s in reversed(samples[start : start + k])}
        votes = Counter(s.extracted for s in samples[start : start + k] if s.extracted is not None)
        scores.append(by_answer[votes.most_common(1)[0][0]] if votes else 0.0)
    return math.fsum(scores) / len(scores)


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
    scores: Mapping[str, float] | None = None,
    samples: tuple[Sample, ...] = (),
    reason: str = "",
    parts: Mapping[str, Any] | None = None,
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
        group=item.group,
        cluster=item.cluster,
        scores=dict(scores or {}),
        samples=samples,
        reason=reason,
        parts=dict(parts or {}),
    )


def _sample(completion: Completion, grade: Grade) -> Sample:
    return Sample(
        output=completion.text,
        extracted=grade.extracted,
        score=grade.score,
        tokens=completion.tokens,
        truncated=completion.truncated,
        reason=grade.reason,
    )
