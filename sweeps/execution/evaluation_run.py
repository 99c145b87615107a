"""Evaluate one model on benchmarks, for the command line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from evaluators.benchmark import Benchmark, BenchmarkResult, Item, Split, items_sha256
from evaluators.benchmarks import NAMES, build, presets, runs_code
from evaluators.errors import unknown_name
from evaluators.evaluate import evaluate, select
from evaluators.files import ENDINGS
from evaluators.item_cache import ItemCache, evaluation_key, weights_sha256
from evaluators.language_model import LanguageModel
from evaluators.protocol import HARNESS, Changes, is_harness, is_own
from evaluators.records import write_records
from evaluators.tokens import AddBos
from sweeps.config.validation_errors import checked
from sweeps.finetune.strict_model import expanded
from sweeps.mini.world import resolve

Dtype = Literal["auto", "bfloat16", "float32", "mixed_bfloat16"]
ADD_BOS: dict[str, AddBos] = {"auto": "auto", "true": True, "false": False}
# Items scored and cached at a time: enough for full batches, few enough to lose little.
CHUNK = 64
SCORES = "scores.json"
"""Beside the files of items: the scores, metrics and fingerprints."""

_KEPT = [each.name for each in fields(BenchmarkResult) if each.name != "records"]


@dataclass(frozen=True)
class Options:
    """The model and the benchmarks; built and checked by `parse`."""

    model: str
    benchmarks: tuple[tuple[str, Benchmark, Path], ...]  # name, protocol, data
    split: Split
    limit: int | None
    device: str
    dtype: Dtype
    add_bos: AddBos
    batch_tokens: int
    samples_out: Path | None
    cache: Path

    @classmethod
    def parse(
        cls,
        *,
        benchmarks: str,
        preset: str | None,
        data: Sequence[str],
        data_folder: Path,
        split: str,
        metric: str | None,
        sandbox: str | None,
        dtype: str,
        add_bos: str,
        changes: Changes,
        **rest: Any,
    ) -> Self:
        """Parse the command-line options; a ValueError names the wrong one."""
        chosen_split: Split = _one_of("split", split, get_args(Split))
        chosen_dtype: Dtype = _one_of("dtype", dtype, get_args(Dtype))
        chosen_bos = ADD_BOS[_one_of("add-bos", add_bos, list(ADD_BOS))]
        names = [name.strip() for name in benchmarks.split(",") if name.strip()]
        if not names:
            raise ValueError(
                f"--benchmarks: expected names such as gsm8k,mmlu, got {benchmarks!r}"
            )
        sources: dict[str, Path] = {}
        for name, source in (_pair(text, names) for text in data):
            if is_harness(name):
                raise ValueError(f"--data: {name} has its own data; expected no {source}")
            if sources.setdefault(name, source) != source:
                raise ValueError(
                    f"--data: expected one source of {name}, found {sources[name]} and {source}"
                )
        # Among several benchmarks, an option applies only to those that support it.
        with_code = [name for name in names if runs_code(_file_of(name))] or names
        with_presets = [name for name in names if name in NAMES and presets(name)] or names
        chosen: list[tuple[str, Benchmark, Path]] = []
        for name in dict.fromkeys(names):
            benchmark = build(
                _file_of(name),
                metric=metric,
                sandbox=sandbox if name in with_code else None,
                preset=preset if name in with_presets else None,
                changes=changes,
            )
            source = Path(name) if is_harness(name) else _source(name, sources, data_folder)
            for other, each, _ in chosen:
                if benchmark.name == each.name or file_name(name) == file_name(other):
                    raise ValueError(
                        f"{name} and {other}: expected names that differ, of the benchmarks and "
                        f"of their files; found {benchmark.name!r} and {each.name!r}"
                    )
            chosen.append((name, benchmark, source))
        return cls(
            benchmarks=tuple(chosen),
            split=chosen_split,
            dtype=chosen_dtype,
            add_bos=chosen_bos,
            **rest,
        )


def run(options: Options) -> dict[str, Any]:
    """Score the model on every benchmark, with a progress bar on standard error.

    Returns everything except items: scores, intervals, other metrics and fingerprints, for a model
    identified by the hash of its weights.

    Raises:
        DivergedError: a weight or a score is not finite.
    """
    import torch

    from sweeps.finetune.divergence import check_scores, check_weights
    from sweeps.finetune.finetune_config import ModelConfig
    from sweeps.finetune.model import computing_dtype, load_model
    from sweeps.finetune.process_group import Group

    # Open files first, to detect a wrong path before loading a large model.
    if options.samples_out is not None:
        options.samples_out.mkdir(parents=True, exist_ok=True)
    items = {
        name: select(benchmark.load(source, options.split), options.limit)
        for name, benchmark, source in options.benchmarks
    }
    for name, found in items.items():
        if not found:
            raise ValueError(f"{name}: no items in its {options.split} split")
    wanted = options.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    config = checked(
        ModelConfig, "the model", {"path": resolve(options.model), "dtype": options.dtype}
    )
    model, tokenizer = load_model(config, device)
    weights = weights_sha256(model, tokenizer)
    check_weights(model.to(device), Group())
    lm = LanguageModel(
        model.eval(),
        tokenizer,
        batch_tokens=options.batch_tokens,
        add_bos=options.add_bos,
        computes_in=computing_dtype(options.dtype, device),
    )
    known_as = f"{weights}-{options.dtype}"
    results: dict[str, dict[str, Any]] = {}
    for name, benchmark, _ in options.benchmarks:
        start = time.monotonic()
        result = _score(lm, benchmark, items[name], known_as, options.cache)
        check_scores(result.score, result.metrics)
        results[name] = {
            **{key: getattr(result, key) for key in _KEPT},
            "items_sha256": items_sha256(items[name]),
            "seconds": time.monotonic() - start,
            "tokens": sum(record.tokens for record in result.records),
        }
        if options.samples_out is not None:
            write_records(result.records, options.samples_out / f"{file_name(name)}.jsonl")
    shared = {"model": options.model, "weights_sha256": weights, "split": options.split}
    scores: dict[str, Any] = {**shared, "results": results}
    if options.samples_out is not None:
        text = json.dumps(_without_nan(scores), indent=1)
        (options.samples_out / SCORES).write_text(f"{text}\n", encoding="utf-8")
    return scores


def _score(
    lm: LanguageModel, benchmark: Benchmark, items: Sequence[Item], weights: str, cache: Path
) -> BenchmarkResult:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    known = ItemCache(cache / f"{evaluation_key(weights, benchmark, items, lm.add_bos)}.jsonl")
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(benchmark.name, total=len(items))
        return evaluate(
            lm,
            benchmark,
            items,
            chunk_size=CHUNK,
            cache=known,
            progress=lambda done: bar.advance(task, done),
        )


def _one_of(kind: str, word: str, known: Sequence[str]) -> Any:
    if word not in known:
        raise unknown_name(kind, word, known)
    return word


def _pair(text: str, names: Sequence[str]) -> tuple[str, Path]:
    name, equals, source = text.partition("=")
    if not equals or not source.strip():
        raise ValueError(f"--data: expected NAME=SOURCE, such as gsm8k=FILE, got {text!r}")
    if name not in names:
        raise unknown_name("benchmark in --data", name, tuple(names))
    return name, Path(source)


def _source(name: str, given: dict[str, Path], folder: Path) -> Path:
    """The path of a benchmark's data."""
    if name in given:
        return expanded(resolve(str(given[name])))
    stem = file_name(name)
    packed = [f"{ending}{gz}" for gz in ("", ".gz") for ending in ENDINGS]
    places = [folder / f"{stem}{ending}" for ending in (*packed, "")]
    for place in places:
        if place.exists():
            return place
    raise ValueError(
        f"{name}: no data; expected --data {name}=SOURCE, or one of {', '.join(map(str, places))}"
    )


def _file_of(name: str) -> str:
    """The name of a benchmark, `~` expanded where that is a path."""
    return str(expanded(name)) if is_own(name) else name


def file_name(name: str) -> str:
    """A file name for a benchmark; its name may be a path, or a task of lm-eval."""
    stem = Path(name.removeprefix(HARNESS)).stem
    return f"lm_eval_{stem}" if is_harness(name) else stem


def _without_nan(value: Any) -> Any:
    """Replace values that are not finite by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
