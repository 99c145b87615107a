"""Build the benchmarks of a run from its config, and check their items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evaluators import benchmarks as registry
from evaluators.benchmark import Benchmark, Item
from evaluators.errors import NoRowsError
from evaluators.prompt_formats import turn_ends
from evaluators.protocol import is_harness
from evaluators.rows import check_hub, is_hub
from evaluators.sandbox import Sandbox
from sweeps.finetune.finetune_config import BenchmarkConfig


def build_benchmark(config: BenchmarkConfig) -> Benchmark:
    """The benchmark with the protocol, metric and sandbox given by `config`.

    Raises ValueError with the benchmark's name, what was expected and the nearest valid name.
    """
    try:
        limits = Sandbox(config.sandbox, config.timeout, config.memory_mb, config.packages)
        sandbox = limits if limits.limits() else config.sandbox
        return registry.build(
            config.name,
            metric=config.metric,
            sandbox=sandbox,
            preset=config.preset,
            changes=config.changes(),
        )
    except ValueError as error:
        raise ValueError(f"benchmark '{config.name}': {error}") from error


def build_benchmarks(configs: Sequence[BenchmarkConfig]) -> list[Benchmark]:
    """The benchmarks, each with a name of its own: scores are kept by name."""
    built = [build_benchmark(config) for config in configs]
    places: dict[str, str] = {}
    for config, benchmark in zip(configs, built, strict=True):
        other = places.setdefault(benchmark.name, config.name)
        if other != config.name:
            raise ValueError(
                f"benchmarks '{other}' and '{config.name}': expected different names, found "
                f"'{benchmark.name}' for both; change 'name' in one of these files"
            )
    return built


def check_prompt_formats(configs: Sequence[BenchmarkConfig], tokenizer: Any) -> None:
    """Raise ValueError if a benchmark is asked in a chat template that the tokenizer lacks."""
    for config in configs:
        try:
            turn_ends(config.prompt_format or "raw", tokenizer)
        except ValueError as error:
            raise ValueError(f"benchmark '{config.name}': {error}") from error


def load_items(
    config: BenchmarkConfig, benchmark: Benchmark, split: Literal["validation", "test"]
) -> list[Item]:
    """The items of `split`, at least one; otherwise ValueError names benchmark and file."""
    source = config.validation if split == "validation" else config.test
    try:
        items = benchmark.load(Path(source), split)
    except NoRowsError as error:
        raise ValueError(f"benchmark '{config.name}': {error}") from error
    if not items:
        raise ValueError(
            f"benchmark '{config.name}': expected at least one {split} item in {source}, found "
            "none"
        )
    return items


def load_text(path: str) -> tuple[Benchmark, list[Item]]:
    """The pieces of the text of `evaluation.forgetting`; ValueError if it cannot be read."""
    benchmark = registry.build("text")
    try:
        return benchmark, benchmark.load(Path(path), "all")
    except ValueError as error:
        raise ValueError(f"evaluation.forgetting: {error}") from error


def check_test_source(config: BenchmarkConfig, benchmark: Benchmark) -> None:
    """Raise ValueError if the test items are missing or equal the validation items.

    Only checks that the source exists, and reads no item.
    """
    if is_harness(config.name):
        return  # the task itself tells the two apart
    if is_hub(config.test):
        check_hub(config.test)
    elif benchmark.splits_are_files and config.test == config.validation:
        raise ValueError(
            f"benchmark '{config.name}': expected two files for validation and test, got "
            f"{config.test} for both, which would use the test items for selection"
        )
    elif not Path(config.test).exists():
        raise ValueError(
            f"{config.test}: no such file or folder; the report reads the test items of "
            f"benchmark '{config.name}' there"
        )


def check_test_items(config: BenchmarkConfig, benchmark: Benchmark) -> None:
    """Raise ValueError if a file's test items cannot be read, or if there are none.

    They are not used otherwise. Those of the hub are only read for the report.
    """
    if not is_hub(config.test):
        load_items(config, benchmark, "test")
