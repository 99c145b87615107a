"""Write the reports of a sweep's studies from their records; describe studies to the tracker."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import mean
from typing import Any

import optuna

from sweeps.config.load import is_paper
from sweeps.config.parameters import FloatRange
from sweeps.config.space import plain_point
from sweeps.config.study_identity import config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.efficiency_study import MEASURED, read
from sweeps.execution.paired_tests import comparison_remarks, paired_metrics, paired_tests
from sweeps.execution.progress import point_name, recorded_point
from sweeps.execution.report_data import (
    comparison_data,
    facts,
    learning_curves,
    search_data,
    sensitivity_data,
)
from sweeps.execution.test_scores import TestScores
from sweeps.report import (
    comparison_page,
    efficiency_page,
    index_page,
    search_page,
    sensitivity,
    sensitivity_page,
)
from sweeps.report.page import Drawn, Page
from sweeps.report.published import published_speeds
from sweeps.report.sensitivity import SensitivityResult, analyse, headline
from sweeps.report.trial_row import TrialRow, fresh_scores, score_text
from sweeps.report.write_report import RESULTS, ReportPaths, write_files
from sweeps.search.design import Design
from sweeps.search.fixed_designs import build_design
from sweeps.search.importance import importances, search_importances
from sweeps.search.trial_records import Records, best_row, label_of
from sweeps.storage.program import command_line
from sweeps.storage.study_links import saved_links, ways_to
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


def study_page(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> tuple[Page, dict[str, Any]]:
    """The page of a study of any kind, and its results for other programs."""
    page, results = _page(config, domain, study, rows, scores)
    found = facts(config, domain, study)
    (verdict, spent), *_ = page.leads
    shared = {
        "name": config.name,
        "domain": domain,
        "headline": verdict,
        "cost": spent,
        "best": best_text(config, domain, rows),
        "facts": found,
    }
    return replace(page, facts=found, again=again(config)), shared | results


def _page(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> tuple[Page, dict[str, Any]]:
    kind = config.study.kind
    if kind == "search":
        space = config.space_of(domain).parameters().items()
        log = {name for name, each in space if isinstance(each, FloatRange) and each.log}
        data = search_data(config, domain, rows, scores)
        importance = search_importances(data.rows, config.seed, log)
        curves = learning_curves(study, config.evaluation.checks)
        return search_page.page(replace(data, curves=curves, importance=importance)), {}
    if kind == "sensitivity":
        design = sensitivity_data(config, domain, study, rows, scores)
        design = replace(design, importance=importances(rows, config.seed))
        result = analyse(design)
        return sensitivity_page.page(design, result), sensitivity.results(design, result)
    if kind == "efficiency":
        return _efficiency_page(config, domain), {}
    return comparison_page.page(comparison_data(config, domain, study, rows, scores)), {}


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


def write_study_report(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> ReportPaths:
    """Write the report of a study of any kind, and the page over all domains."""
    folder = paths_for(config).study(domain) / "report"
    page, results = study_page(config, domain, study, rows, scores)
    paths = write_files(folder, page, rows, results)
    _write_index(config)
    return paths


def _write_index(config: SweepConfig) -> None:
    """Write the page over all domains from the results beside their reports."""
    place = paths_for(config)
    found = dict[str, index_page.Results | None].fromkeys(config.domains)
    for domain in config.domains:
        file = place.study(domain) / "report" / RESULTS
        results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if "facts" in results:  # else an earlier version wrote them
            ways = ways_to(saved_links(place.study(domain)), place.folder)
            found[domain] = {**results, "links": ways}
    page = index_page.page(config.name, found, config_yaml(config))
    index = place.folder / "index.html"
    index.write_text(replace(page, again=again(config)).html(), encoding="utf-8")


def rewrite(config: SweepConfig) -> dict[str, ReportPaths]:
    """Write the reports of all started studies again, from the records alone.

    Raises:
        UserError: the storage does not hold this sweep.
    """
    records, reports = Records(config), {}
    for domain, rows in records.begun().items():
        study = records.study(domain)
        assert study is not None  # it has begun
        scores = TestScores.read(records.place.study(domain))
        reports[domain] = write_study_report(records.config, domain, study, rows, scores)
    return reports


def study_findings(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> tuple[dict[str, float], dict[str, str]]:
    """What the tracker shows of the study itself: metrics and facts.

    Of a search: the best score, that of fresh seeds, the test scores and their difference from
    SFT. Of a sensitivity study: means with intervals.
    """
    if config.study.kind == "sensitivity":
        data = sensitivity_data(config, domain, study, rows, scores)
        result = analyse(data)
        return _arm_means(result), findings(config, domain, rows, headline(data, result))
    best = best_row(rows)
    finals = {} if best is None or best.score is None else {"final/score": best.score}
    if best is not None and (fresh := fresh_scores(best, rows)):
        finals["final/fresh_seeds_score"] = mean(fresh)
    if config.study.kind != "search":
        return finals, findings(config, domain, rows, "")
    for role, entries in scores.entries.items():
        finals |= {f"test/{role}/{name}": value for name, value in entries.items()}
    verdict = ". ".join(comparison_remarks(scores, label_of(config, domain)))
    finals |= paired_metrics(paired_tests(scores))
    return finals, findings(config, domain, rows, verdict)


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


def best_text(config: SweepConfig, domain: str, rows: tuple[TrialRow, ...]) -> str:
    """The best trial with its point and score; empty without one."""
    label, best = label_of(config, domain), best_row(rows)
    if best is None:
        return ""
    name = point_name({**recorded_point(best), "seed": best.seed})
    score = f"{label.text}: {score_text(label, best, rows)} on validation items"
    return f"trial {best.number} ({name}), {score}"


def findings(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], verdict: str
) -> dict[str, str]:
    """The best trial and the verdict, and both as a description."""
    facts = {"best": best_text(config, domain, rows), "verdict": verdict}
    facts = {name: text for name, text in facts.items() if text}
    note = study_info(config, domain, build_design(config, domain)).note
    found = (f"**{name.capitalize()}**: {text}" for name, text in facts.items())
    return {**facts, DESCRIPTION: "\n\n".join([note, *found])}
