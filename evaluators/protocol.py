"""Protocols: all that a score depends on besides the model and the data, as versioned data.

A benchmark has one protocol per preset. `table1` and `table2` are the ones the paper's tables
were most likely made with (MetaMath and Magicoder; open-instruct), `full` is the standard one on
the full set. A score may be compared with another one only where the protocols are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators.errors import unknown_name

Aggregation = Literal["items", "groups"]
_PROMPTS = Path(__file__).parent / "benchmarks" / "prompts"


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn: greedy at temperature 0, else `samples` draws per item.

    pass@k is estimated without bias from the `samples` draws.
    """

    max_new_tokens: int = 0
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    k: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.samples:
            raise ValueError(
                f"expected 1 <= k <= samples, found k={self.k}, samples={self.samples}"
            )
        if self.samples > 1 and self.temperature <= 0:
            raise ValueError(f"expected a temperature above 0 to draw {self.samples} samples")


@dataclass(frozen=True)
class Protocol:
    """One way to ask and to score; a new `version` whenever any of it changes.

    `prompt` is the template, demonstrations included where they do not come with the data.
    `extraction` and `equality` name rules of `evaluators.answers`, where the benchmark uses
    them, and describe the rule in words otherwise. `aggregation`: the mean over items, or the
    mean over groups (tasks, languages) of their means. `validation` says which items are kept
    apart from the test items; `subset` is how many published items (per group when groups are
    averaged) are drawn, None for all. With `robust`, a second accuracy is reported beside the
    primary one, which takes any sign of an answer and compares with math-verify.
    """

    version: str
    validation: str
    prompt: str = "{prompt}"
    shots: int = 0
    decoding: Decoding = Decoding()
    extraction: str = ""
    equality: str = ""
    metric: str = "accuracy"
    aggregation: Aggregation = "items"
    subset: int | None = None
    robust: bool = False


def choose(
    benchmark: str, protocols: Mapping[str, Protocol], preset: str | None, default: str
) -> Protocol:
    """The protocol of `preset` (None: of `default`); an unknown one names those there are."""
    if preset is None:
        return protocols[default]
    if preset not in protocols:
        raise unknown_name(f"preset of {benchmark}", preset, tuple(protocols))
    return protocols[preset]


def is_own(benchmark: str) -> bool:
    """Whether `benchmark` is the path of a file in which a user defines one."""
    return benchmark.endswith((".yaml", ".yml", ".py"))


def prompt_text(name: str) -> str:
    """The text of `name` among the prompts that lie beside the benchmarks."""
    return (_PROMPTS / name).read_text(encoding="utf-8")
