"""The fixed designs of the paper, and which one a configuration asks for.

`MethodsDesign` compares all methods, `DropDesign` drops parts of SFT updates, `DataDesign` trains
on less data, and `SensitivityDesign` asks whether the mask ratio matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import final

from sweeps.config.sweep_config import SweepConfig
from sweeps.report.arms import SFT, Rows, Setting, scored_at, setting_at, winner
from sweeps.report.trial_row import TrialRow
from sweeps.search.design import DERIVED, DROPS, TRAINED, Design, DesignPoint, Plan
from sweeps.storage.errors import UserError


def dropped(rows: Rows, rules: tuple[str, ...], rates: tuple[float, ...]) -> list[DesignPoint]:
    """Each finished SFT replicate with parts of its update dropped, at each rate."""
    return [
        DesignPoint(
            rule, rate, row.accumulation_interval, row.learning_rate, row.seed, "replicate"
        )
        for row in scored_at(rows, SFT, "replicate")
        for rule in rules
        for rate in rates
    ]


@final
class MethodsDesign(Design):
    """The paper's Tables 1 and 2, and more: methods on the same data, seeds and budget."""

    def __init__(self, plan: Plan, arms: Mapping[str, float]) -> None:
        """`arms`: methods, each with its mask ratio or drop rate."""
        super().__init__(plan)
        self._arms = arms

    def settings(self) -> list[Setting]:
        """The trained methods."""
        return [Setting(name, ratio) for name, ratio in self._arms.items() if name in TRAINED]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The base model once, and what derives from each SFT model."""
        interval, rate = self.plan.combinations[0]
        base = DesignPoint("pretrained", 0.0, interval, rate, self.plan.seed, "replicate")
        derived = {name: ratio for name, ratio in self._arms.items() if name in DERIVED}
        points = (dropped(rows, (name,), (ratio,)) for name, ratio in derived.items())
        return [base, *chain(*points)]

    def keeps_model(self, row: TrialRow) -> bool:
        """Every replicate, because all are tested."""
        return row.stage == "replicate"

    def tested(self, rows: Rows) -> list[TrialRow]:
        """Every replicate of every method."""
        return [r for r in rows if r.state == "finished" and r.stage == "replicate"]


@final
class DropDesign(Design):
    """The paper's Figure 3: which parts of an SFT update can be dropped without retraining."""

    def __init__(self, plan: Plan, rates: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.rates = tuple(sorted(rates))

    def settings(self) -> list[Setting]:
        """Only SFT is trained."""
        return [SFT]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """Each update with its smallest, random or largest parts dropped, at each rate."""
        return dropped(rows, DROPS, self.rates)

    def keeps_model(self, row: TrialRow) -> bool:
        """The SFT models, from which all others are derived."""
        return row.stage == "replicate" and row.method == "sft"


@final
class DataDesign(Design):
    """The methods on shares of the training rows, with the same number of examples seen."""

    arms = ("method", "train_fraction")

    def __init__(self, plan: Plan, mask_ratio: float, fractions: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.mask_ratio, self.fractions = mask_ratio, tuple(sorted(fractions))

    def settings(self) -> list[Setting]:
        """Every trained method on every share."""
        ratios = {"sft": 0.0, "hft": 0.0, "random": self.mask_ratio, "gmt": self.mask_ratio}
        return [Setting(m, ratios[m], share) for share in self.fractions for m in ratios]


@final
class SensitivityDesign(Design):
    """The paper's Figure 2 with replicates, for the sweep's masking method.

    All ratios use the same seeds; the best one runs again on fresh seeds.
    """

    arms = ("mask_ratio",)

    def __init__(self, plan: Plan, ratios: tuple[float, ...], method: str) -> None:
        super().__init__(plan)
        self.ratios, self.method = tuple(sorted(ratios)), method

    def settings(self) -> list[Setting]:
        """One arm per ratio."""
        return [setting_at(ratio, self.method) for ratio in self.ratios]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The best masked ratio and SFT on fresh seeds, which gives an unbiased difference."""
        best = winner(self.ratios, rows, self.method)
        if best is None:
            return []
        return [*self.fresh(setting_at(best, self.method), rows), *self.fresh(SFT, rows)]

    def keeps_model(self, row: TrialRow) -> bool:
        """Only models of fresh seeds, because only those are tested."""
        return row.stage == "fresh"

    def tested(self, rows: Rows) -> list[TrialRow]:
        """The fresh trials of the best ratio and of SFT."""
        wanted = set(self.further(rows))
        return [r for r in rows if r.state == "finished" and DesignPoint.of(r) in wanted]


def build_design(config: SweepConfig, domain: str) -> Design | None:
    """The fixed design of a domain's study; None for a search.

    Raises:
        UserError: the configuration lacks a value that the design needs.
    """
    study = config.study
    if study.kind in ("search", "efficiency"):
        return None
    plan = plan_of(config, domain)
    if study.kind == "sensitivity":
        return SensitivityDesign(plan, study.ratios, config.training.method)
    if study.kind == "drop":
        return DropDesign(plan, study.drop_rates)
    ratio = mask_ratio(config, domain)
    if study.kind == "methods":
        return MethodsDesign(plan, study.arm_ratios(ratio))
    return DataDesign(plan, ratio, study.fractions)


def mask_ratio(config: SweepConfig, domain: str) -> float:
    """GMT's mask ratio, used beside the other methods.

    Raises:
        UserError: the configuration does not give it.
    """
    ratio = config.domains[domain].mask_ratio or config.study.mask_ratio
    if ratio is None:
        raise UserError(
            f"domain '{domain}': study.mask_ratio is missing: a {config.study.kind} study needs "
            "GMT's mask ratio, for example study.mask_ratio=0.3"
        )
    return ratio


def plan_of(config: SweepConfig, domain: str) -> Plan:
    """Seeds and nuisance parameters of a domain's design.

    Raises:
        UserError: the configuration does not give the nuisance parameters.
    """
    study = config.study
    nuisance = config.domains[domain].nuisance or study.nuisance
    if nuisance is None:
        raise UserError(
            f"domain '{domain}': study.nuisance is missing: a {study.kind} study needs "
            "accumulation_interval and learning_rate, each a number or a list to tune for every "
            "arm"
        )
    own = study.arm_combinations(nuisance) if study.kind == "methods" else {}
    return Plan(
        config.seed,
        study.seeds,
        study.tuning_seeds,
        study.fresh_seeds,
        tuple(nuisance.combinations()),
        own,
    )
