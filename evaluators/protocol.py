"""Protocols: all that a score depends on besides the model and the data, as versioned data.

A benchmark has one protocol per preset. `table1` and `table2` are the ones the paper's tables
were most likely made with (MetaMath and Magicoder; open-instruct), `full` is the standard one on
the full set. A score may be compared with another one only where the protocols are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from evaluators.errors import unknown_name
from evaluators.prompt_formats import PROMPT_FORMATS

Aggregation = Literal["items", "groups"]
HARNESS = "lm_eval:"
"""What the name of a task of the Language Model Evaluation Harness begins with."""
_PROMPTS = Path(__file__).parent / "benchmarks" / "prompts"


@dataclass(frozen=True)
class Decoding:
    """How completions are drawn.

    Raises:
        ValueError: the numbers do not fit each other.
    """

    max_new_tokens: int = 0
    """The most tokens of a completion."""
    stops: tuple[str, ...] = ()
    """A completion ends before the first of these."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """The probability mass that is sampled from, in (0, 1]."""
    samples: int = 1
    """Completions per item."""
    k: int = 1
    """Of pass@k, which is estimated without bias from the samples, and of maj@k."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.samples:
            raise ValueError(
                f"expected 1 <= k <= samples, found k={self.k}, samples={self.samples}"
            )
        if self.samples > 1 and self.temperature <= 0:
            raise ValueError(f"expected a temperature above 0 to draw {self.samples} samples")
        if 0 < self.top_p < 1 and self.temperature <= 0:
            raise ValueError(
                f"top_p {self.top_p:g}: expected a temperature above 0, or top_p 1 for greedy "
                "decoding"
            )


@dataclass(frozen=True)
class Protocol:
    """One way to ask and to score."""

    version: str
    """Changes whenever any of the protocol changes."""
    validation: str
    """In words, which items are kept apart from the test items."""
    prompt: str = "{prompt}"
    """The template, demonstrations included if they do not come with the data."""
    shots: int = 0
    """Demonstrations drawn from the data."""
    decoding: Decoding = Decoding()
    """How completions are drawn."""
    extraction: str = ""
    """A rule of `evaluators.answers`, or in words how an answer is found in the output."""
    equality: str = ""
    """A rule of `evaluators.answers`, or in words how two answers are compared."""
    metric: str = "accuracy"
    """The primary metric."""
    aggregation: Aggregation = "items"
    """The mean over items, or over groups (tasks, languages) of their means."""
    subset: int | None = None
    """How many published items are drawn, per group if groups are averaged; None: all."""
    robust: bool = False
    """Also report an accuracy that accepts any form of an answer, compared by math-verify."""
    prompt_format: str = "raw"
    """How the prompt is put: as it is, or as the user's turn of a chat."""
    opening: str = ""
    """How the answer begins in a prompt format."""

    def rules(self) -> dict[str, object]:
        """Everything, for a fingerprint; a prompt format where there is one."""
        rules = asdict(self)
        if self.prompt_format == "raw":
            del rules["prompt_format"], rules["opening"]
        return rules


@dataclass(frozen=True)
class Changes:
    """What a user changes in a protocol; None leaves it as it is.

    `max_new_tokens`, `temperature`, `top_p`, `samples` and `k` are those of `Decoding`.

    Raises:
        ValueError: a number is out of its range.
    """

    shots: int | None = None
    """The number of demonstrations, drawn from the benchmark's validation items."""
    fewshot_seed: int | None = None
    """The seed that draws them."""
    system_prompt: str | None = None
    """A text before everything else, in a chat the system turn."""
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    k: int | None = None
    shots_from: str | None = None
    """The file of the validation items, if it is another one."""
    prompt_format: str | None = None
    """raw, chat, tulu, chatml, alpaca, metamath or magicoder; see `evaluators.prompt_formats`."""
    fewshot_as: str | None = None
    """Demonstrations in a prompt format: "turns", or "text" in the user's turn."""

    def __post_init__(self) -> None:
        """Raises ValueError for a number out of its range."""
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                raise ValueError(f"{name}: expected a number {bounds}, found {value}")
        if self.top_p == 0:
            raise ValueError("top_p: expected a number above 0, found 0")
        for name, known in (("prompt_format", PROMPT_FORMATS), ("fewshot_as", ("turns", "text"))):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise unknown_name(name, value, known)
        for name in ("fewshot_seed", "shots_from", "fewshot_as"):
            if getattr(self, name) is not None and self.shots is None:
                raise ValueError(f"{name}: requires shots, found none")

    def rules(self) -> dict[str, object]:
        """What is changed, for a fingerprint."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name != "shots_from"
        }

    def decoding(self) -> dict[str, Any]:
        """The changed fields of `Decoding`."""
        names = {field.name for field in fields(Decoding)}
        return {name: value for name, value in self.rules().items() if name in names}

    def applied(self, rules: Protocol) -> Protocol:
        """`rules` with its decoding changed; ValueError where nothing is drawn from the model."""
        changed = self.decoding()
        if not changed:
            return rules
        if not rules.decoding.max_new_tokens:
            raise ValueError(
                f"{', '.join(changed)}: expected a benchmark that generates text, found "
                f"{rules.version}, which compares likelihoods"
            )
        decoding = replace(rules.decoding, **changed)
        passes = rules.metric.startswith("pass@")
        return replace(
            rules, decoding=decoding, metric=f"pass@{decoding.k}" if passes else rules.metric
        )


_RANGES = (
    ("shots", 0, math.inf),
    ("max_new_tokens", 1, math.inf),
    ("temperature", 0, math.inf),
    ("top_p", 0, 1),
    ("samples", 1, math.inf),
    ("k", 1, math.inf),
)


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
    return benchmark.endswith((".yaml", ".yml", ".py")) and not is_harness(benchmark)


def is_harness(benchmark: str | Path) -> bool:
    """Whether `benchmark` is a task of the Language Model Evaluation Harness."""
    return str(benchmark).startswith(HARNESS)


def prompt_text(name: str) -> str:
    """The text of `name` among the prompts that lie beside the benchmarks."""
    return (_PROMPTS / name).read_text(encoding="utf-8")
