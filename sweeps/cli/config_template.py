"""Generate a first configuration for a model and its domains, with a comment at each choice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from sweeps.cli.row_format import RowFormat
from sweeps.config.load import load_tree
from sweeps.config.path_types import resolve_model
from sweeps.config.validation_errors import checked
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model_facts import context_length, count_parameters, read_model_config
from sweeps.storage.errors import UserError, nearest

MINI_MODEL = "mini:model"
SMALL = 50_000_000
"""Models with fewer parameters stay near chance on exact match and accuracy, and need higher
learning rates."""


@final
@dataclass(frozen=True)
class OwnData:
    """A domain from the user's own data: training rows in a format, a benchmark and its items."""

    train: str
    format: RowFormat
    benchmark: str
    validation: str
    test: str

    def tree(self, small: bool, max_length: int) -> dict[str, Any]:
        """The domain as a section of the configuration."""
        from evaluators.benchmarks import runs_code  # imports for seconds, rarely needed

        benchmark: dict[str, Any] = {"name": self.benchmark}
        if small and self.benchmark not in _OWN_METRIC_SUITS:
            benchmark["metric"] = "bits_per_byte"
        if runs_code(self.benchmark):
            benchmark["sandbox"] = "bubblewrap"
        items = {"validation": self.validation, "test": self.test}
        rows = {"path": self.train, "format": self.format.name, "max_length": max_length}
        if self.format.columns:
            rows["columns"] = dict(self.format.columns)
        if self.train == self.validation:
            rows["part"] = "train"
        return {"data": rows, "benchmarks": [{**benchmark, **items}]}


_OWN_METRIC_SUITS = ("exact_match", "multiple_choice", "short_answer", "text")


@final
@dataclass(frozen=True)
class ModelFacts:
    """The model facts that the first configuration depends on. ``parameters`` is None if the
    model's weights are not on this machine."""

    path: str
    parameters: int | None
    context: int

    @property
    def is_small(self) -> bool:
        """Whether the model is too small for benchmarks made for large models."""
        return self.parameters is not None and self.parameters < SMALL


def model_facts(path: str) -> ModelFacts:
    """Read a model's config.json from disk, from the hub's cache or from the hub.

    Raises:
        ValueError: there is no such model, or the folder does not hold one.
    """
    found = resolve_model(checked(ModelConfig, "the model", {"path": path}), Path())
    context = context_length(read_model_config(found)) or 2048
    return ModelFacts(path, count_parameters(found), context)


def mini_domains() -> dict[str, Any]:
    """The domains of the embedded world by name, as the demo has them."""
    demo = Path(__file__).parent.parent / "configs" / "mini.yaml"
    domains: dict[str, Any] = load_tree(demo)["domains"]
    return domains


def mini_domain(name: str) -> dict[str, Any]:
    """A domain of the embedded world.

    Raises:
        UserError: there is no domain of that name.
    """
    domains = mini_domains()
    if name not in domains:
        raise UserError(
            f"domain '{name}' is not in the embedded world ({nearest(name, list(domains))}); to "
            "use your own data, also give --train, --validation, --test, --format and --benchmark"
        )
    domain: dict[str, Any] = domains[name]
    return domain


def configuration(
    name: str, model: ModelFacts, domains: dict[str, dict[str, Any]], remark: str = ""
) -> str:
    """The text of the file. `remark`: a comment on the domains."""
    gpus = _gpus()
    rates = (3e-4, 5e-3) if model.is_small else (1e-6, 1e-4)
    note = _NOTE if "metric: bits_per_byte" in _indented(domains) else ""
    start = f"{(rates[0] * rates[1]) ** 0.5:.1e}"
    return _TEMPLATE.format(
        name=name,
        model=_plain(model.path),
        gpus_per_worker=1 if gpus else 0,
        concurrency=gpus or min(2, len(os.sched_getaffinity(0))),
        examples=1024 if model.is_small else 4096,
        threads="  threads: 1               # CPU threads per worker\n" if not gpus else "",
        low=f"{rates[0]:.1e}",
        high=f"{rates[1]:.1e}",
        start=start,
        note=f"# {remark}\n" * bool(remark) + note,
        domains=_indented(domains),
    )


def default_length(model: ModelFacts) -> int:
    """Tokens of an example, prompt and response together."""
    return min(model.context, 256 if model.is_small else 1024)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _plain(word: str) -> str:
    """A word as YAML, quoted if necessary."""
    return yaml.safe_dump(word).removesuffix("\n...\n").strip()


def _indented(tree: dict[str, Any]) -> str:
    text = yaml.safe_dump(tree, sort_keys=False, width=99)
    return "".join(f"  {line}\n" for line in text.splitlines())


_NOTE = """\
# A model this small answers correctly only by chance. The score is therefore bits per byte of the
# reference answer; lower is better.
"""

_TEMPLATE = """\
# A sweep: one study per domain, over mask ratio, accumulation interval and learning rate.
#   python -m sweeps validate FILE     check it before anything runs
#   python -m sweeps plan FILE         show what it will run and cost
#   python -m sweeps run FILE          run it, or continue it
name: {name}
seed: 0
storage: runs              # records, trials and reports go to runs/{name}

model:
  path: {model}
  dtype: auto              # mixed_bfloat16 on a GPU that supports it, else float32

resources:                 # of one trial, and how many trials run in parallel
  workers: 1               # data-parallel workers
  cpus_per_worker: 1
  gpus_per_worker: {gpus_per_worker}
  concurrency: {concurrency}

training:
  examples: {examples}           # in total per trial, whatever the interval
  batch:
    fixed: mini_batch       # effective batch = accumulation interval x mini_batch x workers
    mini_batch: 8
  method: gmt              # keep the largest gradient elements; random: keep any
{threads}
evaluation:
  checks: 4                # validation checks per trial, the last one at its end
  check_limit: 48          # items per benchmark at all checks but the last

search:
  trials: 12
  sampler: tpe
  startup_trials: 4        # random trials before the sampler uses results
  start:                   # tried first: plain fine-tuning (mask ratio 0) as the control
    - {{mask_ratio: 0.0, accumulation_interval: 1, learning_rate: {start}}}

space:
  mask_ratio: {{low: 0.0, high: 0.9, step: 0.1}}   # fraction of gradient elements set to zero
  accumulation_interval: [1, 2, 4]               # mini-batches per update
  learning_rate: {{low: {low}, high: {high}, log: true}}

# Training rows and benchmarks. Validation items select the best trial; test items are read once,
# for the report.
{note}domains:
{domains}"""
