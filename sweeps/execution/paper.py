"""Run the studies behind the paper's tables and figures for a sweep's domains, in sequence."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sweeps.config.load import parse_config, put_on_record, report_folder, study_name, study_paths
from sweeps.config.search_space import plain_point
from sweeps.config.study_config import KINDS, TUNED_RATIOS, Kind
from sweeps.config.study_identity import config_yaml
from sweeps.config.sweep_config import SweepConfig, paths_for, resolve_paths, share_generated_files
from sweeps.execution import preflight, sweep
from sweeps.execution.driver_log import LOG, driver_log
from sweeps.execution.hooked_display import HookedDisplay, calling_hooks
from sweeps.execution.progress import Display, LineDisplay
from sweeps.execution.remote_job import Stored
from sweeps.execution.report_data import StudyRecord, facts, sensitivity_data
from sweeps.execution.reporting import again, study_page
from sweeps.execution.worker_session import worker_session
from sweeps.report import paper_page
from sweeps.report.comparison_page import all_domains
from sweeps.report.page import Drawn, Page, merged
from sweeps.report.paper_page import PaperDomain, best_ratio
from sweeps.report.sensitivity import SensitivityResult, analyse
from sweeps.report.sensitivity_page import cost
from sweeps.report.trial_row import ScoreLabel, TrialRow
from sweeps.report.write_report import write_files
from sweeps.search.design import REPLICATE, SEARCH_SEEDS_FROM
from sweeps.search.trial_records import Records, best_row, best_sft_row, label_of
from sweeps.storage import remote_sync
from sweeps.storage.address import is_relative
from sweeps.storage.errors import UserError
from sweeps.tracking.tracker import Tracker

if TYPE_CHECKING:
    from sweeps.execution.worker_groups import WorkerGroups


@final
@dataclass(frozen=True)
class PaperResult:
    """The report on all studies. ``stopped``: how the budget ended one of them; else empty.
    ``unreached``: (study, domain) pairs without a finished trial."""

    html: Path
    stopped: str
    unreached: tuple[tuple[str, str], ...] = ()


def run(
    config: SweepConfig, display: Display | None = None, tracker: Tracker | None = None
) -> PaperResult:
    """Run or continue every study listed in `study.paper`, and write one report on them.

    The studies share one budget. When it ends one of them, the paper ends.

    Raises:
        UserError: the user's input is wrong, or another process runs the paper; nothing was
            started.
    """
    share_generated_files(config)
    relative, config = is_relative(config.storage), resolve_paths(config)
    display, tracker = display or LineDisplay(), tracker or sweep.build_tracker(config)
    check(config)
    for place in (paths_for(config), *(study_paths(config, kind) for kind in KINDS)):
        remote_sync.refresh(place)
    began = time.monotonic()
    first = config.study.paper[0]
    sweep.check(study_of(config, first, final=False), tracker)
    place = paths_for(config)
    with (
        remote_sync.acquire_run(place, display.say),  # `stop` takes the paper's name
        calling_hooks(config, display) as shown,
    ):
        put_on_record(config)
        shown.phase("starting Ray")
        with worker_session(config.resources, place.folder, Stored.of(config), relative) as groups:
            unreached = _run_studies(config, shown, tracker, groups, began)
            shown.phase("stopping workers")
        shown.phase("writing reports")
        page = report(config)  # under the lock, so that it is uploaded to an object store too
    return PaperResult(page, shown.stopped, unreached)


def _run_studies(
    config: SweepConfig,
    shown: HookedDisplay,
    tracker: Tracker,
    groups: WorkerGroups,
    began: float,
) -> tuple[tuple[str, str], ...]:
    """Run each study in turn until the budget ends one; return the domains without a finished
    trial (see `PaperResult`)."""
    unreached: list[tuple[str, str]] = []
    folders = [study_paths(config, kind).folder for kind in KINDS]
    for kind in config.study.paper:
        shown.say(f"== {kind}")
        one, place = study_of(config, kind), study_paths(config, kind)
        preflight.check_recorded(place, one)
        with (
            remote_sync.acquire_run(place, shown.say) as driver,
            driver_log(place.driver_log(), one.name),
        ):
            ledger = sweep.build_usage_tracker(one, folders, began)
            try:
                result = sweep.run_studies(one, shown, tracker, groups, driver, ledger=ledger)
            except UserError as error:
                if kind != "efficiency":  # no other study depends on it
                    raise
                LOG.error("%s", error)
                shown.say(str(error))
                unreached += [(kind, domain) for domain in one.domains]
                continue
        shown.stopped = result.stopped
        unreached += [(kind, domain) for domain in result.unreached()]
        if result.stopped:  # later studies may depend on this one's complete result
            break
    return tuple(unreached)


def check(config: SweepConfig) -> None:
    """Refuse a configuration that would fail only after hours.

    Raises:
        UserError: names the missing key.
    """
    asked, kinds = config.study, set(config.study.paper)
    for domain in config.domains if "search" in kinds else ():
        for name, each in config.space_of(domain).parameters().items():
            if name not in (*plain_point(1), "method") and each.count() != 1:
                raise UserError(
                    f"domain '{domain}': space.{name}: the later studies of a paper take only the "
                    "mask ratio, the accumulation interval and the learning rate from its search: "
                    f"expected one value of {name}, the same under training, or a separate sweep"
                )
    if "sensitivity" in kinds and asked.margin is None:
        raise UserError(
            "study.margin is missing: `paper` runs a sensitivity study, which requires it"
        )
    given = all(parts.nuisance or asked.nuisance for parts in config.domains.values())
    if not given and "search" not in kinds:
        raise UserError(
            "study.nuisance is missing: give accumulation_interval and learning_rate, or add "
            "'search' to study.paper to take them from its best trials"
        )
    ratios = [parts.mask_ratio or asked.mask_ratio or () for parts in config.domains.values()]
    for place, kind in enumerate(asked.paper):
        is_given = all(len(each) == 1 for each in ratios)
        if kind in ONE_RATIO and not is_given and not {*SOURCES} & {*asked.paper[:place]}:
            raise UserError(
                f"study.mask_ratio is missing for '{kind}': give one number, or list 'methods', "
                f"which tunes it, before '{kind}' in study.paper"
            )
        study_of(config, kind, final=False)


ONE_RATIO: tuple[Kind, ...] = ("data", "efficiency")
"""The studies that need one mask ratio for GMT."""

SOURCES: tuple[Kind, ...] = ("methods", "search")
"""The studies that choose it, on seeds that no other study's replicates use."""


def study_of(config: SweepConfig, kind: Kind, *, final: bool = True) -> SweepConfig:
    """The sweep of one kind: ``NAME-KIND``, with the values it takes from earlier studies.

    What a study takes from another was chosen on seeds that it does not use. So the search has a
    seed of its own. ``final``: whether the earlier studies are done; if not, placeholders allow
    everything else to be checked.
    """
    tree = config.model_dump(mode="json")
    tree["name"] = study_name(config, kind)
    tree["study"]["kind"] = kind
    if kind == "search":
        tree["seed"] += SEARCH_SEEDS_FROM
    if kind in ("search", "sensitivity"):
        for parts in tree["domains"].values():
            parts["mask_ratio"] = None
        tree["study"]["mask_ratio"] = None
    for domain, parts in tree["domains"].items():
        if kind != "search" and parts["nuisance"] is None and tree["study"]["nuisance"] is None:
            parts["nuisance"] = _nuisance(config, domain, final)
        given = config.domains[domain].mask_ratio or config.study.mask_ratio or ()
        if kind in ONE_RATIO and len(given) != 1:
            parts["mask_ratio"] = _ratio(config, domain, final)
    return parse_config(tree, tree["name"])


def _nuisance(config: SweepConfig, domain: str, final: bool) -> dict[str, Any]:
    """The nuisance parameters of the search's best masked trial and of its best SFT trial: every
    arm is tuned over both."""
    if not final:
        return {"accumulation_interval": 1, "learning_rate": 1e-3}
    rows = _rows(config, domain, "search")
    masked = best_row(tuple(row for row in rows if not row.is_sft()))
    best = [row for row in (masked, best_sft_row(rows)) if row is not None]
    if not best:
        raise UserError(f"domain '{domain}': no trial of the search finished: give study.nuisance")
    return {
        "accumulation_interval": sorted({row.accumulation_interval for row in best}),
        "learning_rate": sorted({row.learning_rate for row in best}),
    }


def _ratio(config: SweepConfig, domain: str, final: bool) -> float:
    """The mask ratio that `methods` chose for GMT on tuning seeds, or that of the search."""
    if not final:
        given = config.domains[domain].mask_ratio or config.study.mask_ratio
        return (given or TUNED_RATIOS)[0]
    tuned = [r for r in _rows(config, domain, "methods") if r.stage == REPLICATE]
    masked = tuple(r for r in _rows(config, domain, "search") if r.mask_ratio > 0)
    found = next((r for r in tuned if r.method == "gmt"), None) or best_row(masked)
    if found is None:
        raise UserError(f"domain '{domain}': no masked trial finished: give study.mask_ratio")
    return found.mask_ratio


def _rows(config: SweepConfig, domain: str, kind: Kind) -> tuple[TrialRow, ...]:
    """The trials of one kind's study; none without such a study."""
    if kind not in _recorded(config):
        return ()
    return Records(study_of(config, kind)).rows(domain)


def report(config: SweepConfig) -> Path:
    """Write the report on all recorded studies, finished or not."""
    domains = [_domain(config, domain) for domain in config.domains]
    shared: list[Drawn] = []
    if "search" in config.study.paper:
        found: dict[str, tuple[ScoreLabel, TrialRow | None, int]] = {}
        for domain in config.domains:
            rows = _rows(config, domain, "search")
            ended = sum(row.state == "finished" and not row.origin for row in rows)
            found[domain] = (label_of(config, domain), best_row(rows), ended)
        shared.append(best_ratio(found))
    analysed = {d.domain: d.curve for d in domains if d.curve is not None and d.curve[1].intervals}
    if len(analysed) > 1:
        shared.append(all_domains(analysed))
    yaml = config_yaml(config)
    whole = paper_page.page(config.name, domains, shared, yaml)
    return write_files(report_folder(config), replace(whole, again=again(config))).html


def _domain(config: SweepConfig, domain: str) -> PaperDomain:
    """A domain's studies on one page. Of a search, whose best point stands in a table over all
    domains, it has only the link."""
    pages: dict[Kind, Page] = {}
    begun: dict[Kind, list[tuple[str, str]]] = {}
    every: tuple[TrialRow, ...] = ()
    curve: tuple[ScoreLabel, SensitivityResult] | None = None
    for kind in _recorded(config):
        one = study_of(config, kind)
        if (record := StudyRecord.of(Records(one), domain)) is None:
            continue
        every += record.rows
        begun[kind] = facts(record)
        if kind == "search":
            continue
        pages[kind], _ = study_page(record)
        if kind == "sensitivity":
            curve = record.label, analyse(sensitivity_data(record))
    verdicts: dict[str, str] = {kind: page.leads[0][0] for kind, page in pages.items()}
    above = "sensitivity" if "sensitivity" in verdicts else next(iter(verdicts), "")
    said = verdicts.pop(above, "no study has begun.")
    return PaperDomain(
        domain,
        f"{domain}: {said}",
        cost(every),
        tuple(part for kind, page in pages.items() for part in _parts(page, verdicts.get(kind))),
        tuple(f"{kind}: {line}" for kind, page in pages.items() for line in page.caveats),
        tuple(part for page in pages.values() for part in page.appendix),
        tuple(
            (f"{domain}, {kind}", f"../../{study_name(config, kind)}/{domain}/report/report.html")
            for kind in begun
        ),
        curve,
        merged(begun.values()),
    )


def _parts(page: Page, verdict: str | None) -> list[Drawn]:
    """The boxes of a study's page; the first one begins with the verdict, if that is not above."""
    first, *rest = (*page.figures[""], *page.sections)
    return [replace(first, text=(verdict, *first.text)) if verdict else first, *rest]


def _recorded(config: SweepConfig) -> list[Kind]:
    kinds = config.study.paper
    return [kind for kind in kinds if study_paths(config, kind).created_marker().exists()]
