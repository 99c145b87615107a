"""Write the report of a study from its records, and describe a study to the tracker."""

from __future__ import annotations

from statistics import mean

import optuna

from sweeps.config.space import plain_point
from sweeps.config.study_config import ArmConfig, StudyConfig
from sweeps.config.study_identity import MANIFEST, config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.efficiency_study import MEASURED, read
from sweeps.execution.paired_tests import comparison_remarks, paired_metrics, paired_tests
from sweeps.execution.progress import point_name, recorded_point
from sweeps.execution.shared_trials import sibling
from sweeps.execution.test_scores import TestScores
from sweeps.report import comparison_page, search_page, sensitivity_page
from sweeps.report.efficiency_page import efficiency
from sweeps.report.methods_page import ComparisonData
from sweeps.report.page import Drawn, Page
from sweeps.report.published import published_speeds
from sweeps.report.sensitivity import SensitivityData, SensitivityResult, analyse, headline
from sweeps.report.trial_row import StudyData, TrialRow, fresh_scores, score_text
from sweeps.report.write_report import ReportPaths, write_files, write_report, write_sensitivity
from sweeps.search.design import Design
from sweeps.search.fixed_designs import DataDesign, MethodsDesign, build_design
from sweeps.search.importance import importances
from sweeps.search.trial_records import Records, best_row, label_of, own_rows
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
) -> Page:
    """The page of a study of any kind."""
    kind = config.study.kind
    if kind == "search":
        return search_page.page(search_data(config, domain, rows, scores))
    if kind == "sensitivity":
        data = sensitivity_data(config, domain, study, rows, scores)
        return sensitivity_page.page(data, analyse(data))
    if kind == "efficiency":
        return _efficiency_page(config, domain)
    return comparison_page.page(comparison_data(config, domain, study, rows, scores))


def _efficiency_page(config: SweepConfig, domain: str) -> Page:
    path = paths_for(config).study(domain) / MEASURED
    part = Drawn("efficiency", "Training speed relative to SFT", "Not measured yet.")
    if path.exists():
        found = read(path)
        part = efficiency(found["methods"], found["place"])
    return Page(
        f"{config.name}: {domain}, efficiency",
        [("", part.title)],
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
    """Write the report of a study of any kind."""
    folder = paths_for(config).study(domain) / "report"
    if config.study.kind == "sensitivity":
        return write_sensitivity(sensitivity_data(config, domain, study, rows, scores), folder)
    if config.study.kind == "search":
        return write_report(search_data(config, domain, rows, scores), folder)
    return write_files(folder, study_page(config, domain, study, rows, scores), rows)


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


def search_data(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], scores: TestScores
) -> StudyData:
    """The data for the report of a search."""
    return StudyData(
        name=config.name,
        domain=domain,
        label=label_of(config, domain),
        rows=own_rows(rows),
        best=best_row(rows),
        test_results=scores.entries,
        config_yaml=config_yaml(config),
        replicates=tuple(r for r in rows if r.stage and r.parent is None and not r.origin),
        forks=tuple(row for row in rows if row.parent is not None),
        objectives=config.objectives(),
        paired=paired_tests(scores),
        shortfall=config.shortfall(domain),
        elsewhere=tuple(row for row in rows if row.origin),
    )


def comparison_data(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> ComparisonData:
    """The data for the report of several methods."""
    asked, design = config.study, build_design(config, domain)
    arms = design.ratios(rows) if isinstance(design, MethodsDesign) else {}
    return ComparisonData(
        name=config.name,
        domain=domain,
        kind=asked.kind,
        label=label_of(config, domain),
        rows=rows,
        config_yaml=config_yaml(config),
        mask_ratio=design.mask_ratio if isinstance(design, DataDesign) else arms.get("gmt"),
        arms=arms,
        choices=choices(asked),
        margin=asked.margin,
        declared=declaration(config, study),
        drop_rates=tuple(sorted(asked.drop_rates)),
        fractions=tuple(sorted(asked.fractions)),
        tests=scores.entries,
        items=scores.items,
        sensitivity=sibling_rows(config, domain, "sensitivity"),
    )


def choices(study: StudyConfig) -> str:
    """What the paper leaves open, and what the arms of a study do."""
    arms = study.arms
    hft, drop = arms.get("hft", ArmConfig()).hft, arms.get("drop_trivial", ArmConfig())
    shown = {"drop": ("drop_trivial",), "data": ("random", "hft")}.get(study.kind, tuple(arms))
    said = {
        "random": "Random Mask draws a new mask at each update.",
        "shira": "SHiRA holds one random mask throughout.",
        "hft": f"HFT: embeddings and head {'trained' if hft is None else hft.embeddings}.",
        "drop_trivial": f"One-off Drop: {'' if drop.rescale else 'not '}rescaled.",
    }
    return " ".join(text for name, text in said.items() if name in shown)


def sibling_rows(config: SweepConfig, domain: str, kind: str) -> tuple[TrialRow, ...]:
    """The trials of another study of the same `paper`; empty if there is none."""
    found = sibling(config, kind)
    return () if found is None else Records(found).rows(domain)


def sensitivity_data(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> SensitivityData:
    """The data for the report of a sensitivity study."""
    margin = config.study.margin
    assert margin is not None  # validation requires it for a sensitivity study
    return SensitivityData(
        name=config.name,
        domain=domain,
        label=label_of(config, domain),
        ratios=config.study.ratios,
        method=config.training.method,
        margin=margin,
        rows=rows,
        declared=declaration(config, study),
        config_yaml=config_yaml(config),
        items=scores.items,
        importance=importances(rows, config.seed),
    )


def declaration(config: SweepConfig, study: optuna.Study) -> str:
    """When a study's margin was declared, and with how many seeds if there are others now."""
    manifest = study.user_attrs.get(MANIFEST, {})
    declared = f"preregistered {manifest.get('declared', 'at an unknown time')}, before the first "
    if (seeds := manifest.get("seeds")) in (None, config.study.seeds):
        return f"{declared}trial"
    return f"{declared}trial; with {seeds} seeds, {config.study.seeds} now"


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
        return _arm_means(result), _facts(config, domain, rows, headline(data, result))
    best = best_row(rows)
    finals = {} if best is None or best.score is None else {"final/score": best.score}
    if best is not None and (fresh := fresh_scores(best, rows)):
        finals["final/fresh_seeds_score"] = mean(fresh)
    if config.study.kind != "search":
        return finals, _facts(config, domain, rows, "")
    for role, entries in scores.entries.items():
        finals |= {f"test/{role}/{name}": value for name, value in entries.items()}
    verdict = ". ".join(comparison_remarks(scores, label_of(config, domain)))
    finals |= paired_metrics(paired_tests(scores))
    return finals, _facts(config, domain, rows, verdict)


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


def _facts(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], verdict: str
) -> dict[str, str]:
    """The best trial and the verdict, and both as a description."""
    facts, label, best = dict[str, str](), label_of(config, domain), best_row(rows)
    if best is not None:
        name = point_name({**recorded_point(best), "seed": best.seed})
        score = f"{label.text}: {score_text(label, best, rows)} on validation items"
        facts["best"] = f"trial {best.number} ({name}), {score}"
    if verdict:
        facts["verdict"] = verdict
    note = study_info(config, domain, build_design(config, domain)).note
    found = (f"**{name.capitalize()}**: {text}" for name, text in facts.items())
    return {**facts, DESCRIPTION: "\n\n".join([note, *found])}
