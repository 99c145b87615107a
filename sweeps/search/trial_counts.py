"""How many trials a study has in total, and how many are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from sweeps.config.search_space import trials_left
from sweeps.config.sweep_config import SweepConfig
from sweeps.report.trial_row import FRESH, TrialRow, best_first, distinct
from sweeps.search.design import DERIVED, REPLICATE, DesignPoint

if TYPE_CHECKING:
    from sweeps.search.design import Design


@final
@dataclass(frozen=True)
class Workload:
    """`total` trials, of which `done` need no further work.

    Of those left, `derived` are only scored and not trained.
    """

    total: int
    done: int
    derived: int = 0

    @property
    def left(self) -> int:
        """The number of trials that have not ended."""
        return max(0, self.total - self.done)

    @property
    def to_train(self) -> int:
        """The number of remaining trials that train."""
        return max(0, self.left - self.derived)


def workload(
    config: SweepConfig,
    domain: str,
    rows: tuple[TrialRow, ...],
    requested: Mapping[str, int] = MappingProxyType({}),
) -> Workload:
    """The trials of a domain's study, given those on record; none in an efficiency study.

    ``requested``: how many points ("queue") and forks ("fork") a person has asked for that have
    not started.
    """
    if config.study.kind == "efficiency":
        return Workload(0, 0)
    design = _design(config, domain)
    if design is None:
        return _search(config, domain, rows, requested)
    points = whole(design, rows)
    ended = {DesignPoint.of(row) for row in rows if row.has_ended()}
    derived = sum(point.method in DERIVED and point not in ended for point in points)
    return Workload(len(points), sum(point in ended for point in points), derived)


def _design(config: SweepConfig, domain: str) -> Design | None:
    """The fixed design of a study that has one."""
    if config.study.kind in ("search", "efficiency"):
        return None  # without the import, which takes seconds
    from sweeps.search.fixed_designs import build_design

    return build_design(config, domain)


def first_trials(config: SweepConfig) -> int:
    """How many trials can run at once when a sweep starts.

    These are the trials of the first study, or of all studies that run side by side.
    """
    together = config.resources.domains == "side_by_side"
    domains = list(config.domains)[: None if together else 1]
    return sum(_first_trials(config, domain) for domain in domains)


def _first_trials(config: SweepConfig, domain: str) -> int:
    if config.study.kind == "efficiency":
        return 1  # measured by a worker group, without a trial
    design = _design(config, domain)
    if design is None:
        return config.search_trials(domain) * config.search.replicates
    return len(design.points(()))


def _search(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], requested: Mapping[str, int]
) -> Workload:
    rows = tuple(row for row in rows if not row.origin)
    own = tuple(row for row in rows if not row.stage)
    done, again = sum(row.has_ended() for row in own), config.search.fresh_seeds
    trials, each = max(done, config.search_trials(domain)), config.search.replicates
    if config.search.sampler != "grid":
        ended = [row.point() for row in own if row.has_ended()]
        queued = sum(row.queued for row in own) + requested.get("queue", 0)
        asked = config.search.trials + queued
        trials = done + trials_left(asked, config.space_of(domain), ended)
    # The distinct points to run again are known only once the search has ended.
    chosen = [] if done < trials else distinct(best_first(own))[: again.best]
    fresh = (again.best if done < trials else len(chosen)) * again.seeds
    done += sum(row.stage == REPLICATE and row.has_ended() for row in rows)
    repeated = [row for row in rows if row.stage == FRESH and row.has_ended()]
    done += min(fresh, sum(row.same_point(best) for row in repeated for best in chosen))
    forks = [row for row in rows if row.parent is not None]
    done += sum(row.has_ended() for row in forks)
    # Other seeds of a point that is not in the space may have ended.
    total = trials * each + fresh + len(forks) + requested.get("fork", 0)
    return Workload(max(done, total), done)


def whole(design: Design, rows: tuple[TrialRow, ...]) -> list[DesignPoint]:
    """Every trial of a design, across all stages.

    The arms of later stages depend on scores, but the number of their trials does not, so open
    trials are assumed to end with equal scores.
    """
    known = rows
    points = design.points(known)
    while True:
        there = {DesignPoint.of(row) for row in known if row.has_ended()}
        missing = [point for point in points if point not in there]
        if not missing:
            return points
        known = (*known, *(_ended(point) for point in missing))
        points = design.points(known)


def _ended(point: DesignPoint) -> TrialRow:
    return TrialRow(
        number=0,
        key="",
        state="finished",
        score=0.0,
        step=1,
        steps=1,
        seconds=0.0,
        **asdict(point),
    )


def stages(config: SweepConfig, domain: str) -> list[DesignPoint]:
    """Every trial of a domain's fixed design; empty for a search or an efficiency study."""
    design = _design(config, domain)
    return [] if design is None else whole(design, ())


def repeated(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], seen: dict[DesignPoint, bool]
) -> int:
    """How many trials of a study are left that one of the ``seen`` trials can stand for.

    ``seen``: trained points of other studies, and whether their models are kept. Adds this
    study's.
    """
    if (design := _design(config, domain)) is None:
        return 0
    ended = {DesignPoint.of(row) for row in rows if row.has_ended()}
    count = 0
    for point in whole(design, rows):
        if point.method in DERIVED:
            continue
        plain, keeps = replace(point, stage=""), design.keeps_model(_ended(point))
        count += point not in ended and plain in seen and (seen[plain] or not keeps)
        seen[plain] = seen.get(plain, False) or keeps
    return count


def kept_models(config: SweepConfig, domain: str) -> int:
    """The most trained models that a domain's study keeps."""
    if config.study.kind == "efficiency":
        return 0
    keep, design = config.keep.models, _design(config, domain)
    if design is None:
        every = workload(config, domain, ()).total
        return every if keep == "all" else min(config.search_trials(domain), keep + 1)
    rows = tuple(_ended(point) for point in whole(design, ()) if point.method not in DERIVED)
    return len(rows) if keep == "all" else sum(map(design.keeps_model, rows))
