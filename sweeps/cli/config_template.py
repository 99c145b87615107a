"""A first configuration for a model and its domains, with a comment at each choice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from sweeps.storage.errors import UserError, checked, nearest

MINI_MODEL = "mini:model"
SMALL = 50_000_000
"""Below so many parameters exact match and accuracy stay near chance, and rates are higher."""

MINI: dict[str, dict[str, Any]] = {
    "math": {
        "data": "mini:math/train.jsonl",
        "benchmarks": [("exact_match", "mini:math")],
    },
    "code": {"data": "mini:code/train.jsonl", "benchmarks": [("pass_at_1", "mini:code")]},
    "general": {
        "data": "mini:general/train.jsonl",
        "benchmarks": [
            ("multiple_choice", "mini:general_choice"),
            ("short_answer", "mini:general_short"),
        ],
    },
}
"""The domains of the embedded world: training rows, and where each benchmark's items lie."""


@final
@dataclass(frozen=True)
class OwnData:
    """A domain of the user's: training rows of a format, and a benchmark with its items."""

    train: str
    format: str
    benchmark: str
    validation: str
    test: str

    def tree(self, small: bool, max_length: int) -> dict[str, Any]:
        """The domain as a configuration has it."""
        from evaluators.benchmarks import runs_code  # seconds of imports that few need

        benchmark: dict[str, Any] = {"name": self.benchmark}
        if small and self.benchmark not in _OWN_METRIC_SUITS:
            benchmark["metric"] = "bits_per_byte"
        if runs_code(self.benchmark):
            benchmark["sandbox"] = "bubblewrap"
        items = {"validation": self.validation, "test": self.test}
        rows = {"path": self.train, "format": self.format, "max_length": max_length}
        if self.train == self.validation:
            rows["part"] = "train"
        return {"data": rows, "benchmarks": [{**benchmark, **items}]}


_OWN_METRIC_SUITS = ("exact_match", "multiple_choice", "short_answer", "text")


@final
@dataclass(frozen=True)
class ModelFacts:
    """What of a model decides its first configuration. ``parameters`` None: not known here."""

    path: str
    parameters: int | None
    context: int

    @property
    def is_small(self) -> bool:
        """Whether it is a toy to a benchmark made for large models."""
        return self.parameters is not None and self.parameters < SMALL


def model_facts(path: str) -> ModelFacts:
    """Read a model's config.json, here, in the hub's cache, or on the hub.

    Raises:
        ValueError: there is no such model, or its folder is none.
    """
    from sweeps.config.path_types import resolve_model
    from sweeps.finetune.finetune_config import ModelConfig
    from sweeps.finetune.memory import stored_parameters
    from sweeps.finetune.model_facts import read_model_config

    found = resolve_model(checked(ModelConfig, "the model", path=path), Path())
    facts = read_model_config(found)
    text = facts.get("text_config") or facts
    context = text.get("max_position_embeddings") or text.get("n_positions") or 2048
    return ModelFacts(path, stored_parameters(Path(found.path)), int(context))


def mini_domain(name: str) -> dict[str, Any]:
    """A domain of the embedded world.

    Raises:
        UserError: it has none of that name.
    """
    if name not in MINI:
        raise UserError(
            f"domain '{name}' is not one of the embedded world ({nearest(name, list(MINI))}); for "
            "data of your own give --train, --validation, --test, --format and --benchmark too"
        )
    from evaluators.benchmarks import runs_code

    parts = MINI[name]
    benchmarks = []
    for benchmark, place in parts["benchmarks"]:
        items = {"validation": f"{place}/validation.jsonl", "test": f"{place}/test.jsonl"}
        sandbox = {"sandbox": "rlimits"} if runs_code(benchmark) else {}
        benchmarks.append({"name": benchmark, **sandbox, **items})
    return {"data": {"path": parts["data"], "max_length": 128}, "benchmarks": benchmarks}


def configuration(name: str, model: ModelFacts, domains: dict[str, dict[str, Any]]) -> str:
    """The text of the file."""
    gpus = _gpus()
    rates = (3e-4, 5e-3) if model.is_small else (1e-6, 1e-4)
    start = f"{(rates[0] * rates[1]) ** 0.5:.1e}"
    return _TEMPLATE.format(
        name=name,
        model=_plain(model.path),
        gpus_per_worker=1 if gpus else 0,
        concurrency=gpus or min(2, len(os.sched_getaffinity(0))),
        examples=1024 if model.is_small else 4096,
        threads="  threads: 1               # of the CPU, per worker\n" if not gpus else "",
        low=f"{rates[0]:.1e}",
        high=f"{rates[1]:.1e}",
        start=start,
        note=_NOTE if "metric: bits_per_byte" in _indented(domains) else "",
        domains=_indented(domains),
    )


def default_length(model: ModelFacts) -> int:
    """Tokens of an example, prompt and response together."""
    return min(model.context, 256 if model.is_small else 1024)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _plain(word: str) -> str:
    """A word as YAML writes it, quoted where it must be."""
    return yaml.safe_dump(word).removesuffix("\n...\n").strip()


def _indented(tree: dict[str, Any]) -> str:
    text = yaml.safe_dump(tree, sort_keys=False, width=99)
    return "".join(f"  {line}\n" for line in text.splitlines())


_NOTE = """\
# The answers of so small a model are right by chance only: the score is bits per byte of the
# reference answer, less is better.
"""

_TEMPLATE = """\
# A sweep: one study for each domain, over mask ratio, accumulation interval and learning rate.
#   python -m sweeps validate FILE     what is wrong with it, before anything runs
#   python -m sweeps plan FILE         what it will run and cost
#   python -m sweeps run FILE          run it, or go on with it
name: {name}
seed: 0
storage: runs              # records, trials and reports go to runs/{name}

model:
  path: {model}
  dtype: auto              # bfloat16 on a GPU that has it, else float32

resources:                 # of one trial, and how many run side by side
  workers: 1               # data-parallel workers
  cpus_per_worker: 1
  gpus_per_worker: {gpus_per_worker}
  concurrency: {concurrency}

training:
  examples: {examples}           # seen by every trial in total, whatever the interval is
  batch:
    fixed: mini_batch       # effective batch = accumulation interval x mini_batch x workers
    mini_batch: 8
  method: gmt              # keep the largest gradient elements; random: keep any
{threads}
evaluation:
  checks: 4                # of the validation items; all but the last may stop a trial
  check_limit: 48          # items of each benchmark at those

search:
  trials: 12
  sampler: tpe
  startup_trials: 4        # drawn at random before the sampler learns from results
  scheduler: {{name: asha, grace_checks: 2, reduction_factor: 2}}   # stops poor trials early
  start:                   # tried first: plain fine-tuning (mask ratio 0) as the control
    - {{mask_ratio: 0.0, accumulation_interval: 1, learning_rate: {start}}}

space:
  mask_ratio: {{low: 0.0, high: 0.9, step: 0.1}}   # share of gradient elements that is zeroed
  accumulation_interval: [1, 2, 4]               # mini-batches per update
  learning_rate: {{low: {low}, high: {high}, log: true}}

# Training rows and benchmarks. Validation items choose; test items are read once, for the report.
{note}domains:
{domains}"""
