"""The fixed designs of the paper, and which one a configuration asks for.

`MethodsDesign` compares all methods, `DropDesign` drops parts of SFT updates, `DataDesign` trains
on less data, and `SensitivityDesign` asks whether the mask ratio matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import final

from sweeps.config.study_config import TUNED_RATIOS
from sweeps.config.sweep_config import SweepConfig
from sweeps.report.arms import SFT, Rows, Setting, arm, scored_at, setting_at, winner
from sweeps.report.trial_row import TrialRow
from sweeps.search.design import (
    DERIVED,
    DROPS,
    REPLICATE,
    TRAINED,
    TUNING,
    TUNING_SEEDS_FROM,
    Design,
    DesignPoint,
    Plan,
    ended,
)
from sweeps.storage.errors import UserError


def dropped(
    rows: Rows, rules: tuple[str, ...], rates: tuple[float, ...], stage: str = REPLICATE
) -> list[DesignPoint]:
    """Each finished SFT trial of a stage with parts of its update dropped, at each rate."""
    return [
        DesignPoint(rule, rate, row.accumulation_interval, row.learning_rate, row.seed, stage)
        for row in scored_at(rows, SFT, stage)
        for rule in rules
        for rate in rates
    ]


@final
class MethodsDesign(Design):
    """The paper's Tables 1 and 2, and more: methods on the same data, seeds and budget.

    A ratio or rate with several candidates is tuned on tuning seeds, as the nuisance parameters
    are; a single one was given.
    """

    def __init__(self, plan: Plan, arms: Mapping[str, tuple[float, ...]]) -> None:
        """`arms`: methods, each with the candidates for its mask ratio or drop rate."""
        super().__init__(plan)
        self._trained = {name: ratios for name, ratios in arms.items() if name in TRAINED}
        self._derived = {name: ratios for name, ratios in arms.items() if name in DERIVED}
        self._drops_are_tuned = any(len(rates) > 1 for rates in self._derived.values())

    def alternatives(self) -> list[tuple[Setting, ...]]:
        """The trained methods."""
        return [tuple(Setting(m, r) for r in ratios) for m, ratios in self._trained.items()]

    def is_tuned(self, arm: tuple[Setting, ...]) -> bool:
        """Also SFT alone, if drop rates are tuned on its models."""
        return super().is_tuned(arm) or (arm == (SFT,) and self._drops_are_tuned)

    def ratios(self, rows: Rows) -> dict[str, float]:
        """The mask ratio or drop rate of each arm: given, or the best in tuning so far."""
        trained = {arm[0].method: self.chosen(arm, rows)[0] for arm in self.alternatives()}
        derived = {name: self._best_rate(name, rows) for name in self._derived}
        return {name: setting.mask_ratio for name, setting in trained.items()} | derived

    def further(self, rows: Rows) -> list[DesignPoint]:
        """The base model once, and what derives from each SFT model, after tuning its rate."""
        interval, rate = self.plan.combinations[0]
        base = DesignPoint("pretrained", 0.0, interval, rate, self.plan.seed, REPLICATE)
        tuning = [
            point
            for name, rates in self._derived.items()
            if len(rates) > 1
            for point in dropped(self._sft_tuned(rows), (name,), rates, TUNING)
        ]
        if not ended(tuning, rows):
            return [base, *tuning]
        points = (dropped(rows, (name,), (self._best_rate(name, rows),)) for name in self._derived)
        return [base, *tuning, *chain(*points)]

    def _sft_tuned(self, rows: Rows) -> list[TrialRow]:
        """The SFT trials whose models tune drop rates, at the nuisance parameters of SFT."""
        best = self.chosen((SFT,), rows)[1]
        return [
            row
            for row in scored_at(rows, SFT, TUNING)
            if self._tunes_drops(row) and (row.accumulation_interval, row.learning_rate) == best
        ]

    def _tunes_drops(self, row: TrialRow) -> bool:
        last = self.plan.seed + TUNING_SEEDS_FROM + self.plan.tuning_seeds
        return self._drops_are_tuned and SFT.holds(row) and row.stage == TUNING and row.seed < last

    def _best_rate(self, name: str, rows: Rows) -> float:
        rates = self._derived[name]
        tuning = {rate: arm(Setting(name, rate), rows, name, TUNING) for rate in rates}
        means = {rate: one.mean for rate, one in tuning.items() if one.scores}
        return max(means, key=lambda rate: means[rate], default=rates[0])

    def keeps_model(self, row: TrialRow) -> bool:
        """Every replicate, because all are tested; and what drop rates are tuned on."""
        return row.stage == REPLICATE or self._tunes_drops(row)

    def tested(self, rows: Rows) -> list[TrialRow]:
        """Every replicate of every method."""
        return [r for r in rows if r.state == "finished" and r.stage == REPLICATE]


@final
class DropDesign(Design):
    """The paper's Figure 3: which parts of an SFT update can be dropped without retraining."""

    def __init__(self, plan: Plan, rates: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.rates = tuple(sorted(rates))

    def alternatives(self) -> list[tuple[Setting, ...]]:
        """Only SFT is trained."""
        return [(SFT,)]

    def further(self, rows: Rows) -> list[DesignPoint]:
        """Each update with its smallest, random or largest parts dropped, at each rate."""
        return dropped(rows, DROPS, self.rates)

    def keeps_model(self, row: TrialRow) -> bool:
        """The SFT models, from which all others are derived."""
        return row.stage == REPLICATE and row.method == "sft"


@final
class DataDesign(Design):
    """The methods on shares of the training rows, with the same number of examples seen."""

    arms = ("method", "train_fraction")

    def __init__(self, plan: Plan, mask_ratio: float, fractions: tuple[float, ...]) -> None:
        super().__init__(plan)
        self.mask_ratio, self.fractions = mask_ratio, tuple(sorted(fractions))

    def alternatives(self) -> list[tuple[Setting, ...]]:
        """Every trained method on every share."""
        ratios = {"sft": 0.0, "hft": 0.0, "random": self.mask_ratio, "gmt": self.mask_ratio}
        return [(Setting(m, ratios[m], share),) for share in self.fractions for m in ratios]


@final
class SensitivityDesign(Design):
    """The paper's Figure 2 with replicates, for the sweep's masking method.

    All ratios use the same seeds; the best one runs again on fresh seeds.
    """

    arms = ("mask_ratio",)

    def __init__(self, plan: Plan, ratios: tuple[float, ...], method: str) -> None:
        super().__init__(plan)
        self.ratios, self.method = tuple(sorted(ratios)), method

    def alternatives(self) -> list[tuple[Setting, ...]]:
        """One arm per ratio."""
        return [(setting_at(ratio, self.method),) for ratio in self.ratios]

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
    if study.kind == "methods":
        given = config.domains[domain].mask_ratio or study.mask_ratio or TUNED_RATIOS
        return MethodsDesign(plan, study.arm_ratios(given))
    return DataDesign(plan, mask_ratio(config, domain), study.fractions)


def mask_ratio(config: SweepConfig, domain: str) -> float:
    """GMT's mask ratio in a study that does not tune it.

    Raises:
        UserError: the configuration gives none, or several.
    """
    ratios = config.domains[domain].mask_ratio or config.study.mask_ratio or ()
    if len(ratios) != 1:
        found = "is missing" if not ratios else f"has {len(ratios)} values"
        raise UserError(
            f"domain '{domain}': study.mask_ratio {found}: a {config.study.kind} study needs "
            "one mask ratio for GMT, for example study.mask_ratio=0.3"
        )
    return ratios[0]


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
