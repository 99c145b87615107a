"""Plan all studies of a paper as one: what each runs, and what they share."""

from __future__ import annotations

from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution import planning
from sweeps.execution.paper import study_of
from sweeps.execution.planning import Machine, PaceOf, PaperPlan
from sweeps.report.trial_row import TrialRow
from sweeps.search.design import DesignPoint
from sweeps.search.trial_counts import repeated
from sweeps.search.trial_records import recorded_rows
from sweeps.storage.errors import UserError


def paper_plan(
    config: SweepConfig, machine: Machine, pace_of: PaceOf, price: float | None
) -> PaperPlan:
    """The plan of a paper whose paths are resolved; its studies have one pace for each domain."""
    studies = {kind: _study(config, kind) for kind in config.study.paper}
    rows = {kind: recorded_rows(one) for kind, (one, _) in studies.items()}
    every: dict[str, tuple[TrialRow, ...]] = {
        domain: tuple(row for each in rows.values() for row in each[domain])
        for domain in config.domains
    }
    paces = {domain: pace_of(domain, every[domain]) for domain in config.domains}
    seen: dict[str, dict[DesignPoint, bool]] = {domain: {} for domain in config.domains}
    plans = []
    for kind, (one, _) in studies.items():
        shared = {
            domain: repeated(one, domain, rows[kind][domain], seen[domain])
            for domain in config.domains
        }
        found = planning.plan(
            one, rows[kind], machine, lambda domain, _: paces[domain], price, shared
        )
        plans.append(found)
    domains = [domain for each in plans for domain in each.domains]
    known = [p.hours - p.start_seconds / 3600 for p in plans if p.hours is not None]
    start = max(p.start_seconds for p in plans) / 3600  # once for all
    money = [p.money for p in plans if p.money is not None]
    return PaperPlan(
        name=config.name,
        studies=tuple(plans),
        total=sum(domain.total for domain in domains),
        done=sum(domain.done for domain in domains),
        left=sum(domain.left for domain in domains),
        shared=sum(domain.shared for domain in domains),
        hours=sum(known) + start if len(known) == len(plans) else None,
        money=sum(money) if len(money) == len(plans) else None,
        refused=next((p.refused for p in plans if p.refused), ""),
        assumed=tuple(kind for kind, (_, final) in studies.items() if not final),
    )


def _study(config: SweepConfig, kind: Kind) -> tuple[SweepConfig, bool]:
    """A study, and whether all that it takes from earlier ones is known."""
    try:
        return resolve_paths(study_of(config, kind)), True
    except UserError:
        return resolve_paths(study_of(config, kind, final=False)), False
