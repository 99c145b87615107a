"""The benchmarks of a run, built from its config."""

from __future__ import annotations

from pathlib import Path

from evaluators import benchmarks as registry
from evaluators.benchmark import Benchmark
from evaluators.rows import check_hub, is_hub
from sweeps.finetune.config import BenchmarkConfig


def build_benchmark(config: BenchmarkConfig) -> Benchmark:
    """The benchmark with the protocol, metric and sandbox that `config` names.

    Raises ValueError with the benchmark's name, what was expected and the nearest right name.
    """
    try:
        return registry.build(
            config.name, metric=config.metric, sandbox=config.sandbox, preset=config.preset
        )
    except ValueError as error:
        raise ValueError(f"benchmark '{config.name}': {error}") from error


def check_test_source(config: BenchmarkConfig, benchmark: Benchmark) -> None:
    """Raise ValueError where the test items cannot be; nothing is read of what is there.

    Also where they would be the validation items once more.
    """
    if is_hub(config.test):
        check_hub(config.test)
    elif benchmark.splits_are_files and config.test == config.validation:
        raise ValueError(
            f"benchmark '{config.name}': expected two files for validation and test, got "
            f"{config.test} for both, whose test items would choose what they then judge"
        )
    elif not Path(config.test).exists():
        raise ValueError(
            f"{config.test}: no such file or folder; benchmark '{config.name}' reads its test "
            f"items there for the report"
        )
