"""Write the report of a study from its records, and describe a study to the tracker."""

from __future__ import annotations

from statistics import mean

import optuna

from sweeps.config.space import plain_point
from sweeps.config.study_identity import MANIFEST, config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.execution.efficiency_study import MEASURED, read
from sweeps.execution.paired_tests import paired_metrics, paired_tests
from sweeps.execution.test_scores import TestScores
from sweeps.report.efficiency_page import efficiency
from sweeps.report.methods_page import ComparisonData, drawn_of
from sweeps.report.page import Drawn, Page
from sweeps.report.sensitivity import SensitivityData, analyse
from sweeps.report.sensitivity_page import cost
from sweeps.report.trial_row import StudyData, TrialRow, fresh_scores
from sweeps.report.write_report import ReportPaths, write_files, write_report, write_sensitivity
from sweeps.search.design import Design
from sweeps.search.importance import importances
from sweeps.search.trial_records import Records, best_row, label_of, own_rows
from sweeps.tracking.tracker import StudyInfo


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


CAVEATS = {
    "methods": [
        "GMT's mask ratio was selected on validation items before this study: judge the methods "
        "by the test items.",
        "Intervals hold for other seeds of the same model, data and recipe.",
    ],
    "drop": [
        "Dropping parts of a finished update and masking gradients during training are different: "
        "the curves share an axis but are not directly comparable.",
    ],
    "data": [
        "Only the share of the rows changes; nothing is retuned for less data unless "
        "study.nuisance holds lists."
    ],
    "efficiency": [
        "Measured in one process, on one machine, with one model: other sizes and devices have "
        "other ratios.",
        "PyTorch counts the FLOPs: matrix products, but not the masking.",
    ],
}


def write_study_report(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> ReportPaths:
    """Write the report of a study of any kind."""
    folder = paths_for(config).study(domain) / "report"
    kind = config.study.kind
    if kind == "sensitivity":
        return write_sensitivity(sensitivity_data(config, domain, study, rows, scores), folder)
    if kind == "search":
        return write_report(search_data(config, domain, rows, scores), folder)
    part = study_figure(config, domain, rows, scores)
    title = f"{config.name}: {domain}, {kind}"
    lead = part.title if kind == "efficiency" else cost(rows)
    yaml = config_yaml(config)
    page = Page(title, [("", lead)], {"": [part]}, yaml, caveats=CAVEATS[kind])
    return write_files(folder, page, rows)


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


def study_figure(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], scores: TestScores
) -> Drawn:
    """The figure of a study of methods, drops, less data or efficiency."""
    if config.study.kind == "efficiency":
        path = paths_for(config).study(domain) / MEASURED
        if not path.exists():
            return Drawn("efficiency", "Training speed relative to SFT", "Not measured yet.")
        found = read(path)
        return efficiency(found["methods"], found["place"])
    return drawn_of(comparison_data(config, domain, rows, scores))


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
        replicates=tuple(row for row in rows if row.stage and not row.origin),
        objectives=config.objectives(),
        paired=paired_tests(scores),
        shortfall=config.shortfall(domain),
        elsewhere=tuple(row for row in rows if row.origin),
    )


def comparison_data(
    config: SweepConfig, domain: str, rows: tuple[TrialRow, ...], scores: TestScores
) -> ComparisonData:
    """The data for the report of several methods."""
    study = config.study
    ratio = config.domains[domain].mask_ratio or study.mask_ratio
    return ComparisonData(
        name=config.name,
        domain=domain,
        kind=study.kind,
        label=label_of(config, domain),
        rows=rows,
        config_yaml=config_yaml(config),
        mask_ratio=ratio,
        arms=study.arm_ratios(ratio or 0.0),
        margin=study.margin,
        drop_rates=tuple(sorted(study.drop_rates)),
        fractions=tuple(sorted(study.fractions)),
        tests=scores.entries,
        sensitivity=sibling_rows(config, domain, "sensitivity"),
    )


def sibling_rows(config: SweepConfig, domain: str, kind: str) -> tuple[TrialRow, ...]:
    """The trials of another study of the same `paper`; empty if there is none."""
    ending = f"-{config.study.kind}"
    if not config.name.endswith(ending):
        return ()
    name = f"{config.name.removesuffix(ending)}-{kind}"
    sibling = config.model_copy(update={"name": name})
    return Records(sibling).rows(domain) if paths_for(sibling).created_marker().exists() else ()


def sensitivity_data(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> SensitivityData:
    """The data for the report of a sensitivity study."""
    manifest = study.user_attrs.get(MANIFEST, {})
    when = manifest.get("declared", "at an unknown time")
    declared = f"preregistered {when}, before the first trial"
    if manifest.get("seeds") not in (None, config.study.seeds):
        declared += f"; with {manifest['seeds']} seeds, {config.study.seeds} now"
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
        declared=declared,
        config_yaml=config_yaml(config),
        items=scores.items,
        importance=importances(rows, config.seed),
    )


def study_finals(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> dict[str, float]:
    """Metrics of the study itself in the tracker.

    For a search: the best score, that of fresh seeds, and the test difference from SFT. For a
    sensitivity study: means with intervals.
    """
    if config.study.kind == "sensitivity":
        result = analyse(sensitivity_data(config, domain, study, rows, scores))
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
    best = best_row(rows)
    found = {} if best is None or best.score is None else {"final/score": best.score}
    if best is not None and (fresh := fresh_scores(best, rows)):
        found["final/fresh_seeds_score"] = mean(fresh)
    return found | (paired_metrics(paired_tests(scores)) if config.study.kind == "search" else {})
