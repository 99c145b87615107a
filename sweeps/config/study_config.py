"""The kind of a study: a search, or a fixed design for one question of the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from sweeps.config.searched_parameter import Choices, parameter
from sweeps.finetune.method_options import WITHOUT_RATIO, AdapterConfig, HalfConfig
from sweeps.finetune.strict_model import StrictModel

Kind = Literal["search", "methods", "sensitivity", "drop", "data", "efficiency"]
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


def _several(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else [value]


def as_given(ratios: tuple[float, ...]) -> float | list[float]:
    """Mask ratios as YAML writes them: one as a number."""
    return ratios[0] if len(ratios) == 1 else [*ratios]


Ratio = Annotated[float, Field(ge=0, lt=1)]
MaskRatios = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
    Field(min_length=1),
    BeforeValidator(_several),
    PlainSerializer(as_given),
]
"""A mask ratio or drop rate: a number that is given, or a list to choose from on tuning seeds."""

TUNED_RATIOS = (0.1, 0.2, 0.3, 0.4)
"""What `methods` tunes over by default: the range of the paper's best ratios (Table 4)."""
Fraction = Annotated[float, Field(gt=0, le=1)]


class NuisanceConfig(StrictModel):
    """The nuisance parameters: single numbers, or lists tuned for every arm at equal budget."""

    accumulation_interval: Annotated[Choices, _list("accumulation_interval")]
    """Mini-batches per update."""
    learning_rate: Annotated[Choices, _list("learning_rate")]
    """The peak of the schedule."""

    def combinations(self) -> list[tuple[int, float]]:
        """Every (accumulation interval, learning rate)."""
        intervals, rates = self.accumulation_interval.choices, self.learning_rate.choices
        return [(int(interval), float(rate)) for interval in intervals for rate in rates]


ArmName = Literal["sft", "drop_trivial", "hft", "random", "gmt", "lora", "shira", "dare"]
PAPER_ARMS: Final[tuple[ArmName, ...]] = ("sft", "drop_trivial", "hft", "random", "gmt")
_OWN_RATIOS: Final[Mapping[str, tuple[float, ...]]] = {"shira": (0.98,), "dare": (0.9,)}
"""SHiRA trains 1 to 2 % of the weights (arXiv 2406.13175); DARE drops 90 % (arXiv 2311.03099)."""
_RATE_FACTORS: Final[Mapping[str, float]] = {"lora": 10.0}
"""LoRA wants about ten times SFT's learning rate (arXiv 2602.04998)."""


class ArmConfig(StrictModel):
    """What an arm of a `methods` study does not share with the others."""

    mask_ratio: MaskRatios | None = None
    """Of a masking method, or the drop rate of `drop_trivial` and `dare`: one, or as many
    candidates as the study has."""
    nuisance: NuisanceConfig | None = None
    """The combinations it is tuned over, as many as the other arms have."""
    lora: AdapterConfig | None = None
    """Options of the arm `lora` (arXiv 2106.09685)."""
    hft: HalfConfig | None = None
    """Options of the arm `hft` (arXiv 2404.18466)."""
    rescale: bool = False
    """For `drop_trivial`: divide the kept changes by 1 - rate, as `dare` does."""


def _plain_arms(names: Iterable[Any]) -> dict[Any, ArmConfig]:
    return {name: ArmConfig() for name in names}


class StudyConfig(StrictModel):
    """What `run` runs. All kinds but `search` are fixed designs: no sampler, no early stopping."""

    kind: Kind = "search"
    """The question that is answered."""
    paper: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    """What `paper` runs, in this order."""
    margin: Annotated[float, Field(gt=0)] | None = None
    """Two settings are equivalent if their true scores differ by less, in units of the score;
    preregistered before the first trial. `sensitivity` requires it."""
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    """Replicates of every arm."""
    tuning_seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    """Seeds of each candidate in tuning."""
    fresh_seeds: Annotated[int, Field(ge=2, le=1000)] = 3
    """New seeds of the best ratio and of SFT, in `sensitivity`."""
    nuisance: NuisanceConfig | None = None
    """Accumulation interval and learning rate, given or tuned; null: in a `paper`, those of the
    search."""
    arms: dict[ArmName, ArmConfig] = _plain_arms(PAPER_ARMS)
    """The arms of `methods`, beside the base model: a list of names, or each name with settings of
    its own."""
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=2)] = PAPER_RATIOS
    """The mask ratios of `sensitivity`; 0 is SFT."""
    mask_ratio: MaskRatios | None = None
    """Of GMT, Random Mask and One-off Drop: `methods` tunes a list for each of them, by default
    0.1 to 0.4; `data` and `efficiency` need one number, by default in a `paper` that of `methods`.
    """
    drop_rates: Annotated[tuple[Ratio, ...], Field(min_length=1)] = PAPER_RATIOS[1:]
    """The drop rates of `drop`."""
    fractions: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.1, 0.3, 1.0)
    """The shares of the training rows of `data`."""
    rounds: Annotated[int, Field(ge=3)] = 20
    """Updates of each method, in `efficiency`."""

    @field_validator("arms", mode="before")
    @classmethod
    def _names_are_enough(cls, arms: Any) -> Any:
        if isinstance(arms, dict):
            return {name: {} if own is None else own for name, own in arms.items()}
        if not isinstance(arms, list | tuple) or not all(isinstance(n, str) for n in arms):
            return arms
        if len(set(arms)) < len(arms):
            raise ValueError(f"expected each arm once, got {list(arms)}")
        return _plain_arms(arms)

    @model_validator(mode="after")
    def _arms_are_comparable(self) -> Self:
        if "sft" not in self.arms:
            raise ValueError("arms: expected sft among them, the control of the other arms")
        for name, arm in self.arms.items():
            if arm.mask_ratio is not None and name in WITHOUT_RATIO:
                raise ValueError(
                    f"arms.{name}: {name} {WITHOUT_RATIO[name]}, expected no mask_ratio"
                )
            owners = {"lora": "lora", "hft": "hft", "rescale": "drop_trivial"}
            for key, owner in owners.items():
                if getattr(arm, key) and name != owner:
                    raise ValueError(f"arms.{name}.{key}: expected only below arms.{owner}")
            if arm.nuisance is not None and name in ("drop_trivial", "dare"):
                raise ValueError(
                    f"arms.{name}.nuisance: expected none, because {name} derives from sft"
                )
        return self

    def arm_ratios(self, shared: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
        """The candidates for the mask ratio or drop rate of each arm; `shared` are the study's.

        Raises:
            ValueError: an arm has several, but not as many, which is no equal budget.
        """
        found: dict[str, tuple[float, ...]] = {}
        for name, arm in self.arms.items():
            ratios = arm.mask_ratio or _OWN_RATIOS.get(name, shared)
            if len(ratios) not in (1, len(shared)):
                raise ValueError(
                    f"study.arms.{name}.mask_ratio: expected one ratio, or {len(shared)}, as "
                    f"study.mask_ratio has (an equal budget), got {len(ratios)}"
                )
            found[name] = (0.0,) if name in WITHOUT_RATIO else ratios
        return found

    def arm_combinations(self, nuisance: NuisanceConfig) -> dict[str, list[tuple[int, float]]]:
        """The nuisance parameters of the arms that do not have those of the study, `nuisance`.

        Raises:
            ValueError: an arm has more or fewer combinations, which is no equal budget.
        """
        shared, found = nuisance.combinations(), dict[str, list[tuple[int, float]]]()
        for name, arm in self.arms.items():
            if arm.nuisance is not None:
                found[name] = arm.nuisance.combinations()
            elif (factor := _RATE_FACTORS.get(name)) is not None:
                found[name] = [(n, float(f"{factor * rate:.9g}")) for n, rate in shared]
            if len(own := found.get(name, shared)) != len(shared):
                raise ValueError(
                    f"study.arms.{name}.nuisance: expected {len(shared)} combinations, as the "
                    f"other arms have (an equal budget), got {len(own)}"
                )
        return found

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        for name in ("ratios", "drop_rates", "fractions", "paper", "mask_ratio"):
            values = getattr(self, name) or ()
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
