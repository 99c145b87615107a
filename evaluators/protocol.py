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
        if 0 < self.top_p < 1 and self.temperature <= 0:
            raise ValueError(
                f"top_p {self.top_p:g}: expected a temperature above 0, or top_p 1 for greedy "
                "decoding"
            )


@dataclass(frozen=True)
class Protocol:
    """One way to ask and to score; a new `version` whenever any of it changes.

    `prompt` is the template, demonstrations included where they do not come with the data.
    `extraction` and `equality` name rules of `evaluators.answers`, where the benchmark uses
    them, and describe the rule in words otherwise. `aggregation`: the mean over items, or the
    mean over groups (tasks, languages) of their means. `validation` says which items are kept
    apart from the test items; `subset` is how many published items (per group when groups are
    averaged) are drawn, None for all. With `robust`, a second accuracy is reported beside the
    primary one, which takes any sign of an answer and compares with math-verify. With a
    `prompt_format`, the prompt is a user's turn, and `opening` begins the answer.
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
    prompt_format: str = "raw"
    opening: str = ""

    def rules(self) -> dict[str, object]:
        """Everything, for a fingerprint; a prompt format where there is one."""
        rules = asdict(self)
        if self.prompt_format == "raw":
            del rules["prompt_format"], rules["opening"]
        return rules


@dataclass(frozen=True)
class Changes:
    """What a user changes in a protocol; None leaves it as it is.

    `shots` demonstrations are drawn by `fewshot_seed` from the benchmark's validation items, or
    from those of the file `shots_from`; `system_prompt` comes before everything else.
    `prompt_format`: how the questions are put, see `evaluators.prompt_formats`; in a format, the
    demonstrations that `shots` draws are turns, or text in the user's turn (`fewshot_as`). The
    others are those of `Decoding`.
    """

    shots: int | None = None
    fewshot_seed: int | None = None
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    k: int | None = None
    shots_from: str | None = None
    prompt_format: str | None = None
    fewshot_as: str | None = None

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
                raise ValueError(f"{name}: expected shots, too, found none")

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
