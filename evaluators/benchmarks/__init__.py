"""The benchmarks by name."""

from __future__ import annotations

from evaluators.benchmark import Benchmark
from evaluators.benchmarks.exact_match import ExactMatch
from evaluators.benchmarks.gsm8k import GSM8K
from evaluators.benchmarks.mbpp import MBPP
from evaluators.benchmarks.mmlu import MMLU
from evaluators.benchmarks.multiple_choice import MultipleChoice
from evaluators.benchmarks.pass_at_1 import PassAt1
from evaluators.benchmarks.short_answer import ShortAnswer
from evaluators.errors import unknown_name

_METRICS = {
    "exact_match": "accuracy",
    "pass_at_1": "pass@1",
    "multiple_choice": "accuracy",
    "short_answer": "f1",
    "gsm8k": "accuracy",
    "gsm8k_metamath": "accuracy",
    "mbpp": "pass@1",
    "mmlu": "accuracy",
}
NAMES = tuple(_METRICS)


def build(name: str, *, metric: str | None = None, sandbox: str | None = None) -> Benchmark:
    """The benchmark called `name`.

    `metric` is the primary one: the benchmark's own (None), or "bits_per_byte", which every
    benchmark has and which generates nothing. `sandbox` is the level for generated programs, see
    `evaluators.sandbox.resolve_level`; benchmarks that run none ignore it only when it is None.
    """
    if name not in NAMES:
        raise unknown_name("benchmark", name, NAMES)
    allowed = (_METRICS[name], "bits_per_byte")
    chosen = allowed[0] if metric is None else metric
    if chosen not in allowed:
        raise unknown_name(f"metric of {name}", chosen, allowed)
    if sandbox is not None and name not in ("pass_at_1", "mbpp"):
        raise ValueError(f"{name} runs no generated code; expected no sandbox, found {sandbox!r}")
    return _construct(name, chosen, sandbox)


def _construct(name: str, metric: str, sandbox: str | None) -> Benchmark:
    match name:
        case "exact_match":
            return ExactMatch(metric)
        case "pass_at_1":
            return PassAt1(metric, sandbox=sandbox)
        case "multiple_choice":
            return MultipleChoice(metric)
        case "short_answer":
            return ShortAnswer(metric)
        case "gsm8k" | "gsm8k_metamath":
            return GSM8K(metric, metamath=name == "gsm8k_metamath")
        case "mbpp":
            return MBPP(metric, sandbox=sandbox)
        case _:
            return MMLU(metric)
