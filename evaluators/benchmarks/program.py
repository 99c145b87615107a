"""What benchmarks that run the generated program share."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.benchmark import Item
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.protocol import Protocol
from evaluators.sandbox import resolve_level, run_programs

MEMORY_MB = 512


class ProgramBenchmark(GenerativeBenchmark):
    """pass@k: stub or prompt, completion and tests must run to the end in the sandbox."""

    timeout: float  # seconds of CPU time per program

    def __init__(self, metric: str, rules: Protocol, *, sandbox: str | None) -> None:
        super().__init__(metric, rules)
        # Pricing the reference runs no code, so it asks for no sandbox.
        self.sandbox_level = None if metric == "bits_per_byte" else resolve_level(sandbox)

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for a program that passes all its tests, else 0."""
        if self.sandbox_level is None:
            raise ValueError(f"{self.name}: no program is run when the metric is {self.metric}")
        results = run_programs(
            [program(item, text) for item, text in zip(items, texts, strict=True)],
            level=self.sandbox_level,
            timeout=self.timeout,
            memory_mb=MEMORY_MB,
        )
        return [
            Grade(text if text.strip() else None, float(result.passed))
            for text, result in zip(texts, results, strict=True)
        ]

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        return {**super().protocol(), "timeout": self.timeout, "memory_mb": MEMORY_MB}


def program(item: Item, completion: str) -> str:
    """The completed program, the setup (which may use it) and the tests, as one text."""
    head = item.prompt if item.stub is None else item.stub
    return "\n".join([head + completion, item.setup, *item.tests, ""])
