"""Score a model: on validation items during training, on test items once at the very end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch

from evaluators.benchmark import Benchmark, BenchmarkResult, Item
from evaluators.evaluate import evaluate, select
from evaluators.language_model import LanguageModel
from evaluators.statistics import interval_of_mean
from evaluators.tokens import AddBos
from sweeps.finetune.benchmarks import build_benchmark, build_benchmarks, load_items, load_text
from sweeps.finetune.divergence import check_scores
from sweeps.finetune.finetune_config import BenchmarkConfig, EvaluationConfig
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache, signature


@dataclass(frozen=True)
class _Part:
    benchmark: Benchmark
    items: list[Item]
    early_items: list[Item]


@final
class Validation:
    """The validation items of a domain, read once; it has no access to test items."""

    def __init__(
        self,
        config: EvaluationConfig,
        group: Group,
        cache: Cache,
        add_bos: AddBos = "auto",
        computes_in: torch.dtype | None = None,
    ) -> None:
        """Read and select the items; DataError names what cannot be read."""
        self._group, self._add_bos, self._computes_in = group, add_bos, computes_in
        self._lm: LanguageModel | None = None
        key = ("benchmarks", *map(_identity, config.benchmarks))
        opened = cache.value(key, lambda: _opened(config.benchmarks))
        pairs = zip(config.benchmarks, opened, strict=True)
        self._parts = [_part(each, *own, config.check_limit) for each, own in pairs]
        self._text: tuple[Benchmark, list[Item]] | None = None
        if (text := config.forgetting) is not None:
            self._text = cache.value(("text", text, signature(text)), lambda: load_text(text))

    def check(self, model: Any, tokenizer: Any, *, final: bool) -> tuple[float, dict[str, float]]:
        """The mean score over the benchmarks, and `eval/<benchmark>/<metric>`; equal on all ranks.

        A `final` check also has the number of items and the score's 95 % interval over them,
        `validation/items`, `/low` and `/high`; without the interval if it cannot be estimated. It
        measures `forgetting/bits_per_byte`, which is not part of the score.

        Raises:
            DivergedError: one of them is not finite.
        """
        if self._lm is None or self._lm.model is not model:  # kept, since it has been checked
            self._lm = LanguageModel(
                model, tokenizer, add_bos=self._add_bos, computes_in=self._computes_in
            )
        results: list[BenchmarkResult] = []
        metrics: dict[str, float] = {}
        for part in self._parts:
            items = part.items if final else part.early_items
            result = self._evaluate(self._lm, part.benchmark, items)
            results.append(result)
            for name, value in result.metrics.items():
                metrics[f"eval/{result.name}/{name}"] = value
        score = sum(result.score for result in results) / len(results)
        if final:
            metrics |= _interval(results)
        if final and self._text is not None:
            result = self._evaluate(self._lm, *self._text)
            metrics["forgetting/bits_per_byte"] = result.metrics["bits_per_byte"]
        check_scores(score, metrics)
        return score, metrics

    def _evaluate(
        self, lm: LanguageModel, benchmark: Benchmark, items: list[Item]
    ) -> BenchmarkResult:
        rank, size = self._group.rank, self._group.size
        return evaluate(lm, benchmark, items, rank=rank, world_size=size)


def evaluate_model(
    model: Any,
    tokenizer: Any,
    benchmarks: Sequence[BenchmarkConfig],
    split: Literal["validation", "test"] = "test",
    group: Group | None = None,
    *,
    add_bos: AddBos = "auto",
    computes_in: torch.dtype | None = None,
) -> dict[str, BenchmarkResult]:
    """Score a model in memory on all (or `test_limit`, `limit`) items, split over `group`."""
    rank, size = (0, 1) if group is None else (group.rank, group.size)
    lm = LanguageModel(model, tokenizer, add_bos=add_bos, computes_in=computes_in)
    results = {}
    for config in benchmarks:
        limit = config.test_limit if split == "test" else config.limit
        benchmark = build_benchmark(config)
        items = select(load_items(config, benchmark, split), limit)
        results[benchmark.name] = evaluate(lm, benchmark, items, rank=rank, world_size=size)
    return results


def _interval(results: Sequence[BenchmarkResult]) -> dict[str, float]:
    low, high = interval_of_mean([(one.score, one.low, one.high) for one in results])
    found = {"items": float(sum(one.n for one in results)), "low": low, "high": high}
    return {f"validation/{name}": value for name, value in found.items() if math.isfinite(value)}


def _part(
    config: BenchmarkConfig, benchmark: Benchmark, items: list[Item], check_limit: int | None
) -> _Part:
    chosen = select(items, config.limit)
    return _Part(benchmark, chosen, select(chosen, check_limit))


def _opened(configs: Sequence[BenchmarkConfig]) -> list[tuple[Benchmark, list[Item]]]:
    """The benchmarks with their items: a task of lm-eval keeps the documents that it loads."""
    return [
        (benchmark, load_items(config, benchmark, "validation"))
        for config, benchmark in zip(configs, build_benchmarks(configs), strict=True)
    ]


def _identity(config: BenchmarkConfig) -> tuple[object, ...]:
    """What the items of a benchmark, and the way they are asked, follow from."""
    fields = config.model_dump_json(exclude={"test", "limit", "test_limit"})
    return fields, signature(config.name), signature(config.validation)
