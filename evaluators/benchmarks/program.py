"""What benchmarks that run the generated program share."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from evaluators.benchmark import Item
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.protocol import Protocol
from evaluators.sandbox import Program, resolve_level, run_programs


@dataclass(frozen=True)
class Limits:
    """What one program may use: seconds of CPU time, MiB of address space.

    `inside`: the tests run in the program's own process, which can then cheat them; for results
    that are too large to be handed over.
    """

    timeout: float
    memory_mb: int = 512
    inside: bool = False


class ProgramBenchmark(GenerativeBenchmark):
    """pass@k: stub or prompt, completion and tests must run to the end in the sandbox."""

    limits: Limits
    slow: Mapping[str, Limits] = MappingProxyType({})  # by item id, where the tests need more

    def __init__(self, metric: str, rules: Protocol, *, sandbox: str | None) -> None:
        super().__init__(metric, rules)
        # Pricing the reference runs no code, so it asks for no sandbox.
        self.sandbox_level = None if metric == "bits_per_byte" else resolve_level(sandbox)

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for a program that passes all its tests, else 0."""
        if self.sandbox_level is None:
            raise ValueError(f"{self.name}: no program is run when the metric is {self.metric}")
        passed: dict[int, bool] = {}
        limits = [self.slow.get(item.id, self.limits) for item in items]
        for bound in dict.fromkeys(limits):
            places = [place for place, each in enumerate(limits) if each == bound]
            results = run_programs(
                [program(items[place], texts[place], inside=bound.inside) for place in places],
                level=self.sandbox_level,
                timeout=bound.timeout,
                memory_mb=bound.memory_mb,
            )
            passed.update(
                (place, result.passed) for place, result in zip(places, results, strict=True)
            )
        return [
            Grade(text if text.strip() else None, float(passed[place]))
            for place, text in enumerate(texts)
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        slow = {name: asdict(limits) for name, limits in self.slow.items()}
        return {**super().protocol(), "limits": asdict(self.limits), "slow": slow}


def program(item: Item, completion: str, *, inside: bool = False) -> Program:
    """The completed program, to be tested from outside unless `inside` says otherwise.

    Only what the reference defines comes from the program; the task's own code, and the tests,
    run where the program cannot reach them.
    """
    head = item.prompt if item.stub is None else item.stub
    if inside:
        return Program("\n".join([head + completion, item.setup, *item.tests, ""]))
    names = (item.entry_point,) if item.entry_point else _defined(head + item.reference)
    return Program(head + completion, item.tests, item.setup, head, names)


def _defined(source: str) -> tuple[str, ...]:
    """The functions and classes that `source` defines; none where it is no program."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return ()
    kinds = (ast.FunctionDef, ast.ClassDef)
    return tuple(node.name for node in body if isinstance(node, kinds))
