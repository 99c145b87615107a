"""What benchmarks that compare a final answer share: extraction and equality by rule."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.answers import EQUALITIES, EXTRACTIONS
from evaluators.benchmark import Item
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.math_equality import same_mathematics
from evaluators.robust_answer import robust_answer

ROBUST = "accuracy_robust"


class AnswerBenchmark(GenerativeBenchmark):
    """Accuracy of the extracted answer, by the rules that the protocol names.

    Where the protocol's accuracy and the robust one beside it differ much, the paper's rule
    measures form rather than mathematics.
    """

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for the gold answer, else 0."""
        rules = self.rules
        golds = [item.answer for item in items]
        answers = [EXTRACTIONS[rules.extraction](text) for text in texts]
        right = _same(rules.equality, answers, golds)
        if not rules.robust:
            return [Grade(*each) for each in zip(answers, right, strict=True)]
        robust = _same("mathematics", [robust_answer(text) for text in texts], golds)
        return [
            Grade(answer, score, {ROBUST: other})
            for answer, score, other in zip(answers, right, robust, strict=True)
        ]


def _same(rule: str, answers: Sequence[str | None], golds: Sequence[str]) -> list[float]:
    """1.0 where an answer equals the gold one by `rule`, else 0.0."""
    pairs = list(zip(answers, golds, strict=True))
    if rule == "mathematics":
        return [float(same) for same in same_mathematics(pairs)]
    equal = EQUALITIES[rule]
    return [float(answer is not None and equal(answer, gold)) for answer, gold in pairs]
