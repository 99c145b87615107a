"""The kind of a study: a search, or a fixed design for one question of the paper."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from sweeps.config.parameters import Choices, parameter
from sweeps.finetune.strict_model import StrictModel

Kind = Literal["search", "sensitivity", "methods", "drop", "data", "efficiency"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PAPER_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Figure 2 of arXiv 2406.15330; 0 is SFT."""


def _list(key: str) -> BeforeValidator:
    """A parameter that is a number, or a list of numbers."""

    def choices(value: Any) -> Choices:
        found = parameter(key, value)
        if not isinstance(found, Choices) or found.when:
            raise ValueError("expected a number, or a list of numbers such as [1, 2, 4]")
        return found

    return BeforeValidator(choices)


Ratio = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class NuisanceConfig(StrictModel):
    """The nuisance parameters: single numbers, or lists tuned for every arm at equal budget."""

    accumulation_interval: Annotated[Choices, _list("accumulation_interval")]
    learning_rate: Annotated[Choices, _list("learning_rate")]

    def combinations(self) -> list[tuple[int, float]]:
        """Every (accumulation interval, learning rate)."""
        intervals, rates = self.accumulation_interval.choices, self.learning_rate.choices
        return [(int(interval), float(rate)) for interval in intervals for rate in rates]


class StudyConfig(StrictModel):
    """What `run` runs. All kinds except `search` are fixed designs: no sampler, no early stopping.

    `margin`: two settings count as equivalent if their true scores differ by less; in units of the
    score, and preregistered before the first trial. `nuisance` and `mask_ratio` (GMT's, in
    `methods` and `data`) may be omitted in `paper`, which takes them from the search and the
    sensitivity study.
    """

    kind: Kind = "search"
    paper: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    margin: Annotated[float, Field(gt=0)] | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    tuning_seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    fresh_seeds: Annotated[int, Field(ge=2, le=1000)] = 3
    nuisance: NuisanceConfig | None = None
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=2)] = PAPER_RATIOS
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    drop_rates: Annotated[tuple[Ratio, ...], Field(min_length=1)] = PAPER_RATIOS[1:]
    fractions: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.3, 1.0)
    rounds: Annotated[int, Field(ge=3)] = 20

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        for name in ("ratios", "drop_rates", "fractions", "paper"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: expected each value once, got {list(values)}")
        if 0.0 not in self.ratios:
            raise ValueError("ratios: expected 0 among them, plain fine-tuning as the control")
        if self.kind == "sensitivity" and self.margin is None:
            raise ValueError(
                "margin is missing: two settings whose scores differ by less count as equivalent "
                "(in units of the score, such as 0.02 of accuracy)"
            )
        return self
