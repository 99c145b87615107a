"""Write the reports of a sweep's studies from their records; describe studies to the tracker."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean
from typing import Any

from sweeps.config.load import is_paper
from sweeps.config.search_space import plain_point
from sweeps.config.searched_parameter import FloatRange
from sweeps.config.study_identity import config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.efficiency_study import MEASURED, read
from sweeps.execution.paired_tests import comparison_remarks, paired_metrics, paired_tests
from sweeps.execution.progress import point_name, recorded_point
from sweeps.execution.report_data import (
    StudyRecord,
    comparison_data,
    facts,
    learning_curves,
    search_data,
    sensitivity_data,
)
from sweeps.report import (
    comparison_page,
    efficiency_page,
    search_page,
    sensitivity,
    sensitivity_page,
)
from sweeps.report.page import DomainResults, Drawn, Page, index_page
from sweeps.report.published import published_speeds
from sweeps.report.sensitivity import SensitivityResult, analyse, headline
from sweeps.report.trial_row import fresh_scores, score_text
from sweeps.report.write_report import RESULTS, ReportPaths, write_files
from sweeps.search.design import Design
from sweeps.search.fixed_designs import build_design
from sweeps.search.importance import importances, search_importances
from sweeps.search.trial_records import Records, best_row
from sweeps.storage.command_line import command_line
from sweeps.storage.study_paths import saved_links, ways_to
from sweeps.tracking.tracker import DESCRIPTION, StudyInfo


def study_info(config: SweepConfig, domain: str, design: Design | None) -> StudyInfo:
    """The tracker's description of one domain's study.

    It is a search, an efficiency measurement or, with a ``design``, a set of fixed trials.
    """
    searched: tuple[str, ...] = ()
    if design is not None:
        trials = "fixed design"
        note = f"Fixed design '{config.study.kind}': {config.study.seeds} seeds per arm."
    elif config.study.kind == "efficiency":
        trials, note = "0", "Training speed of each method relative to SFT; it has no trials."
    else:
        trials = str(config.search_trials(domain))
        space = config.space_of(domain).parameters()
        searched = tuple(name for name in space if name not in plain_point(1))
        note = f"Search over {', '.join(space)}: {trials} trials, sampler {config.search.sampler}."
    return StudyInfo(
        key=f"{config.name}/{domain}",
        name=config.name,
        domain=domain,
        config_yaml=config_yaml(config),
        git_commit=git_commit(),
        note=note,
        parameters={"model": config.model.path, "trials": trials, "kind": config.study.kind},
        trial_kind="trial" if design is None else "replicate",
        arms=() if design is None else design.arms,
        searched=searched,
    )


EFFICIENCY_CAVEATS = [
    "Measured in one process, on one machine, with one model: other sizes and devices have "
    "other ratios.",
    "PyTorch counts the FLOPs: matrix products, but not the masking.",
]


def study_page(record: StudyRecord) -> tuple[Page, dict[str, Any]]:
    """The page of a study of any kind, and its results for other programs."""
    page, results = _page(record)
    found = facts(record)
    (verdict, spent), *_ = page.leads
    shared = {
        "name": record.config.name,
        "domain": record.domain,
        "headline": verdict,
        "cost": spent,
        "best": best_text(record),
        "facts": found,
    }
    return replace(page, facts=found, again=again(record.config)), shared | results


def _page(record: StudyRecord) -> tuple[Page, dict[str, Any]]:
    config, kind = record.config, record.config.study.kind
    if kind == "search":
        space = config.space_of(record.domain).parameters().items()
        log = {name for name, each in space if isinstance(each, FloatRange) and each.log}
        data = search_data(record)
        importance = search_importances(data.rows, config.seed, log)
        curves = learning_curves(record.study, config.evaluation.checks)
        return search_page.page(replace(data, curves=curves, importance=importance)), {}
    if kind == "sensitivity":
        design = sensitivity_data(record)
        design = replace(design, importance=importances(record.rows, config.seed))
        result = analyse(design)
        return sensitivity_page.page(design, result), sensitivity.results(design, result)
    if kind == "efficiency":
        return _efficiency_page(config, record.domain), {}
    return comparison_page.page(comparison_data(record)), {}


def again(config: SweepConfig) -> list[tuple[str, str]]:
    """What can be done with a sweep's folder, each with its command."""
    place, command = paths_for(config), "paper" if is_paper(config) else "run"
    anew = command_line(command, place.config_file(), [f"name={config.name}-again"])
    return [
        ("To continue, or to train what is missing", command_line("resume", place.folder)),
        ("To run everything again, under another name", anew),
    ]


def _efficiency_page(config: SweepConfig, domain: str) -> Page:
    path = paths_for(config).study(domain) / MEASURED
    part = Drawn("efficiency", "Training speed relative to SFT", "Not measured yet.")
    told = "No verdict yet: nothing has been measured."
    if path.exists():
        found = read(path)
        part = efficiency_page.efficiency(found["methods"], found["place"])
        told = efficiency_page.verdict(found["methods"], found["place"])
    return Page(
        f"{config.name}: {domain}, efficiency",
        [(told, "")],
        {"": [part]},
        config_yaml(config),
        appendix=[published_speeds()],
        caveats=EFFICIENCY_CAVEATS,
    )


def write_study_report(record: StudyRecord) -> ReportPaths:
    """Write the report of a study of any kind, and the page over all domains."""
    folder = paths_for(record.config).study(record.domain) / "report"
    page, results = study_page(record)
    paths = write_files(folder, page, record.rows, results)
    _write_index(record.config)
    return paths


def _write_index(config: SweepConfig) -> None:
    """Write the page over all domains from the results beside their reports."""
    place = paths_for(config)
    found = dict[str, DomainResults | None].fromkeys(config.domains)
    for domain in config.domains:
        file = place.study(domain) / "report" / RESULTS
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if "facts" in results:  # else an earlier version wrote them
            ways = ways_to(saved_links(place.study(domain)), place.folder)
            found[domain] = {**results, "links": ways}
    page = index_page(config.name, found, config_yaml(config))
    index = place.folder / "index.html"
    index.write_text(replace(page, again=again(config)).html(), encoding="utf-8")


def rewrite(config: SweepConfig) -> dict[str, ReportPaths]:
    """Write the reports of all started studies again, from the records alone.

    Raises:
        UserError: the storage does not hold this sweep.
    """
    records = Records(config)
    found = (StudyRecord.of(records, domain) for domain in records.config.domains)
    return {one.domain: write_study_report(one) for one in found if one is not None}


def study_findings(record: StudyRecord) -> tuple[dict[str, float], dict[str, str]]:
    """What the tracker shows of the study itself: metrics and facts.

    Of a search: the best score, that of fresh seeds, the test scores and their difference from
    SFT. Of a sensitivity study: means with intervals.
    """
    kind, rows, scores = record.config.study.kind, record.rows, record.scores
    if kind == "sensitivity":
        data = sensitivity_data(record)
        result = analyse(data)
        return _arm_means(result), findings(record, headline(data, result))
    best = best_row(rows)
    finals = {} if best is None or best.score is None else {"final/score": best.score}
    if best is not None and (fresh := fresh_scores(best, rows)):
        finals["final/fresh_seeds_score"] = mean(fresh)
    if kind != "search":
        return finals, findings(record, "")
    for role, entries in scores.entries.items():
        finals |= {f"test/{role}/{name}": value for name, value in entries.items()}
    verdict = ". ".join(comparison_remarks(scores, record.label))
    finals |= paired_metrics(paired_tests(scores))
    return finals, findings(record, verdict)


def _arm_means(result: SensitivityResult) -> dict[str, float]:
    finals: dict[str, float] = {}
    for one, interval in zip(result.arms, result.intervals, strict=False):
        place = f"seeds/m{float(one.name):.2f}"
        finals |= {
            f"{place}/mean": interval.estimate,
            f"{place}/low": interval.low,
            f"{place}/high": interval.high,
            f"{place}/n": float(one.n),
        }
    return finals


def best_text(record: StudyRecord) -> str:
    """The best trial with its point and score; empty without one."""
    label, best = record.label, best_row(record.rows)
    if best is None:
        return ""
    name = point_name({**recorded_point(best), "seed": best.seed})
    score = f"{label.text}: {score_text(label, best, record.rows)} on validation items"
    return f"trial {best.number} ({name}), {score}"


def findings(record: StudyRecord, verdict: str) -> dict[str, str]:
    """The best trial and the verdict, and both as a description."""
    config, domain = record.config, record.domain
    facts = {"best": best_text(record), "verdict": verdict}
    facts = {name: text for name, text in facts.items() if text}
    note = study_info(config, domain, build_design(config, domain)).note
    found = (f"**{name.capitalize()}**: {text}" for name, text in facts.items())
    return {**facts, DESCRIPTION: "\n\n".join([note, *found])}
