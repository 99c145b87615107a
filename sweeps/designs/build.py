"""The design that a sweep's configuration asks for."""

from __future__ import annotations

from sweeps.config import SweepConfig
from sweeps.designs.design import Design, Plan
from sweeps.designs.methods import DataDesign, DropDesign, MethodsDesign
from sweeps.designs.sensitivity import SensitivityDesign
from sweeps.errors import UserError


def build_design(config: SweepConfig, domain: str) -> Design | None:
    """The fixed design of a domain's study; None for a search.

    Raises:
        UserError: the configuration lacks what the design needs.
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
        return MethodsDesign(plan, ratio)
    return DataDesign(plan, ratio, study.fractions)


def mask_ratio(config: SweepConfig, domain: str) -> float:
    """GMT's mask ratio beside the other methods.

    Raises:
        UserError: it is given nowhere.
    """
    ratio = config.domains[domain].mask_ratio or config.study.mask_ratio
    if ratio is None:
        raise UserError(
            f"domain '{domain}': study.mask_ratio is missing: a {config.study.kind} study needs "
            "GMT's mask ratio, as study.mask_ratio=0.3"
        )
    return ratio


def plan_of(config: SweepConfig, domain: str) -> Plan:
    """Seeds and nuisance parameters of a domain's design.

    Raises:
        UserError: the nuisance parameters are given nowhere.
    """
    study = config.study
    nuisance = config.domains[domain].nuisance or study.nuisance
    if nuisance is None:
        raise UserError(
            f"domain '{domain}': study.nuisance is missing: a {study.kind} study needs "
            "accumulation_interval and learning_rate, a number each or lists that are tuned for "
            "every arm"
        )
    return Plan(
        config.seed,
        study.seeds,
        study.tuning_seeds,
        study.fresh_seeds,
        tuple(nuisance.combinations()),
    )
