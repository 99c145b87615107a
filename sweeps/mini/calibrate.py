"""Base against fine-tuned scores: `python -m sweeps.mini.calibrate` prints one table.

Runs go one after another in this process and are scored on validation items, at the settings
that the demo's sweep has too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from sweeps.finetune.finetune_config import (
    BatchConfig,
    BenchmarkConfig,
    DataConfig,
    EvaluationConfig,
    FinetuneConfig,
    MethodConfig,
    ModelConfig,
)
from sweeps.finetune.loop import finetune
from sweeps.finetune.process_state import Cache
from sweeps.finetune.reporter import FolderReporter
from sweeps.finetune.validation import evaluate_folder
from sweeps.mini.world import resolve

EXAMPLES = 1024
MINI_BATCH = 8
STATISTICS_EVERY = 8
MAX_LENGTH = 128
BENCHMARKS = {
    "math": {"exact_match": "math"},
    "code": {"pass_at_1": "code"},
    "general": {"multiple_choice": "general_choice", "short_answer": "general_short"},
}
_PRIMARY = frozenset({"accuracy", "pass@1", "f1"})
_COLUMNS = "{:<9}{:>9}{:>7}{:>4}{:>6}{:>8}  {:<46}{:>8}{:>9}"


@dataclass(frozen=True)
class Setting:
    """What a run of the table is made with; a mask ratio of 0 is plain fine-tuning."""

    learning_rate: float
    mask_ratio: float
    accumulation_interval: int
    seed: int


@dataclass(frozen=True)
class Line:
    """One row of the table: a run, or the base model where `setting` is None."""

    domain: str
    setting: Setting | None
    score: float | None
    parts: dict[str, float]
    wall_seconds: float
    core_seconds: float

    def text(self) -> str:
        """The row, aligned under `header`."""
        shown = ("base", "", "", "")
        if (setting := self.setting) is not None:
            shown = (
                f"{setting.learning_rate:.1e}",
                f"{setting.mask_ratio:.2f}",
                f"{setting.accumulation_interval}",
                f"{setting.seed}",
            )
        score = "none" if self.score is None else f"{self.score:.3f}"
        parts = "  ".join(f"{name} {value:.3f}" for name, value in self.parts.items())
        times = f"{self.wall_seconds:.1f}", f"{self.core_seconds:.1f}"
        return _COLUMNS.format(self.domain, *shown, score, parts, *times)


def header() -> str:
    """The table's first line."""
    names = ("domain", "rate", "ratio", "N", "seed", "score", "benchmarks", "wall s", "core s")
    return _COLUMNS.format(*names)


def run_config(model: str, domain: str, setting: Setting) -> FinetuneConfig:
    """Return the run of one table row."""
    return FinetuneConfig(
        model=ModelConfig(path=model, dtype="float32"),
        data=DataConfig(path=resolve(f"mini:{domain}/train.jsonl"), max_length=MAX_LENGTH),
        method=MethodConfig(
            name="gmt" if setting.mask_ratio else "sft", mask_ratio=setting.mask_ratio
        ),
        batch=BatchConfig(mini_batch=MINI_BATCH),
        accumulation_interval=setting.accumulation_interval,
        learning_rate=setting.learning_rate,
        examples=EXAMPLES,
        evaluation=EvaluationConfig(benchmarks=_benchmarks(domain), checks=1),
        seed=setting.seed,
        threads=1,
        statistics_every=STATISTICS_EVERY,
        keep="none",
    )


def base(model: str, domain: str) -> Line:
    """Score the model as it is on the domain's validation items."""
    wall, core = time.perf_counter(), time.process_time()
    results = evaluate_folder(model, _benchmarks(domain), "validation", threads=1)
    parts = {name: result.score for name, result in results.items()}
    return Line(domain, None, sum(parts.values()) / len(parts), parts, *_spent(wall, core))


def tuned(model: str, domain: str, setting: Setting, cache: Cache) -> Line:
    """Run a setting and keep nothing of it but its score."""
    wall, core = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = run_config(model, domain, setting)
        result = finetune(run, folder, FolderReporter(folder), cache)
    parts = {
        name.split("/")[1]: value
        for name, value in result.metrics.items()
        if name.startswith("eval/") and name.rpartition("/")[2] in _PRIMARY
    }
    return Line(domain, setting, result.score, parts, *_spent(wall, core))


def table(model: str, domains: Sequence[str], settings: Sequence[Setting]) -> Iterator[Line]:
    """Yield the base model's line and one for each setting, domain by domain."""
    for domain in domains:
        yield base(model, domain)
        cache = Cache()
        for setting in settings:
            yield tuned(model, domain, setting, cache)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.mini.calibrate", description=__doc__)
    parser.add_argument("--model", default="mini:model", help="model folder (default: shipped)")
    parser.add_argument("--domains", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[1e-3], metavar="X")
    parser.add_argument("--mask-ratios", nargs="+", type=float, default=[0.0], metavar="R")
    parser.add_argument("--intervals", nargs="+", type=int, default=[1], metavar="N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S")
    options = parser.parse_args(arguments)
    settings = [
        Setting(*values)
        for values in product(
            options.learning_rates, options.mask_ratios, options.intervals, options.seeds
        )
    ]
    print(header(), flush=True)
    for line in table(resolve(options.model), options.domains, settings):
        print(line.text(), flush=True)


def _benchmarks(domain: str) -> tuple[BenchmarkConfig, ...]:
    return tuple(
        BenchmarkConfig(
            name=name,
            validation=resolve(f"mini:{files}/validation.jsonl"),
            test=resolve(f"mini:{files}/test.jsonl"),
            # The programs are the tiny model's own: limits on time, memory and files are enough.
            sandbox="rlimits" if name == "pass_at_1" else None,
        )
        for name, files in BENCHMARKS[domain].items()
    )


def _spent(wall: float, core: float) -> tuple[float, float]:
    """Wall seconds and core seconds since then, this process alone."""
    return time.perf_counter() - wall, time.process_time() - core


if __name__ == "__main__":
    # Set before any model is opened: the bar of two dozen tensors says nothing here.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    main()
