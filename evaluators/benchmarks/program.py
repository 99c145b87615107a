"""What benchmarks that run the generated program share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType

from evaluators.benchmark import Item
from evaluators.benchmarks.generative import GenerativeBenchmark, Grade
from evaluators.benchmarks.program_text import checkers, program_text, read_head
from evaluators.protocol import Protocol
from evaluators.sandbox import ExecutionResult, Program, Sandbox, resolve_level, run_programs
from evaluators.sandbox_packages import find_packages, usual_packages


@dataclass(frozen=True)
class Limits:
    """What one program may use: seconds of CPU time, MiB of address space, installed packages.

    `inside`: the tests run in the program's own process, which can then cheat them; for your own
    tests, which may need any object, and for results that are too large to be handed over.
    """

    timeout: float
    memory_mb: int = 512
    inside: bool = False
    packages: tuple[str, ...] = field(default_factory=usual_packages)


class ProgramBenchmark(GenerativeBenchmark):
    """pass@k: stub or prompt, completion and tests must run to the end in the sandbox."""

    limits: Limits
    slow: Mapping[str, Limits] = MappingProxyType({})  # by item id, where the tests need more

    def __init__(
        self, metric: str, rules: Protocol, limits: Limits, *, sandbox: str | Sandbox | None
    ) -> None:
        """`sandbox`: the level, or also limits that replace those of the benchmark."""
        super().__init__(metric, rules)
        chosen = sandbox if isinstance(sandbox, Sandbox) else Sandbox(sandbox)
        self.limits = replace(limits, **chosen.limits())
        find_packages(self.limits.packages)
        # Pricing the reference runs no code, so it asks for no sandbox.
        self.sandbox_level = None if metric == "bits_per_byte" else resolve_level(chosen.level)

    def grade(self, items: Sequence[Item], texts: Sequence[str]) -> list[Grade]:
        """1 for a program that passes all its tests, else 0 and the reason."""
        if self.sandbox_level is None:
            raise ValueError(f"{self.name}: no program is run when the metric is {self.metric}")
        found: dict[int, ExecutionResult] = {}
        limits = [self._limits(item) for item in items]
        for bound in dict.fromkeys(limits):
            places = [place for place, each in enumerate(limits) if each == bound]
            results = run_programs(
                [program(items[place], texts[place], inside=bound.inside) for place in places],
                level=self.sandbox_level,
                timeout=bound.timeout,
                memory_mb=bound.memory_mb,
                packages=bound.packages,
            )
            found.update(zip(places, results, strict=True))
        return [
            Grade(
                text if text.strip() else None,
                float(found[place].passed),
                reason="" if found[place].passed else found[place].reason,
            )
            for place, text in enumerate(texts)
        ]

    def _limits(self, item: Item) -> Limits:
        needed = self.slow.get(item.id, self.limits)
        return replace(needed, packages=self.limits.packages)

    def protocol(self) -> dict[str, object]:
        """Everything but model and data that a score depends on."""
        slow = {name: asdict(limits) for name, limits in self.slow.items()}
        return {**super().protocol(), "limits": asdict(self.limits), "slow": slow}


def program(item: Item, completion: str, *, inside: bool = False) -> Program:
    """The completed program, to be tested from outside unless `inside` says otherwise.

    From outside, only what the reference defines comes from the program; the task's own code, and
    the tests, run where the program cannot reach them. So do the functions of the prompt that
    check a result, whatever `inside` says.
    """
    head = read_head(item.prompt if item.stub is None else item.stub, item.reference)
    source = program_text(head, completion)
    if inside and not checkers(head, item.tests):
        return Program(source, item.tests, item.setup, inside=True)
    names = (item.entry_point,) if item.entry_point else head.wanted
    return Program(source, item.tests, item.setup, head.finished, names)
