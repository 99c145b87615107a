"""From a study's records to its report: which kind of study gets which."""

from __future__ import annotations

import time

import optuna
import yaml

from sweeps.config import SweepConfig
from sweeps.final_scores import TestScores
from sweeps.identity import git_commit
from sweeps.importance import importances
from sweeps.place import place_of
from sweeps.report.data import ScoreLabel, StudyData, TrialRow
from sweeps.report.sensitivity import SensitivityData, analyse
from sweeps.report.write import ReportPaths, write_report, write_sensitivity
from sweeps.rows import best_row

MANIFEST = "manifest"


def config_yaml(config: SweepConfig) -> str:
    """The resolved configuration as YAML that loads again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def declare(study: optuna.Study, config: SweepConfig, domain: str) -> None:
    """Put on record, before the first trial, what the study is going to be judged by."""
    asked = config.study
    study.set_user_attr(
        MANIFEST,
        {
            "declared": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "commit": git_commit(),
            "kind": asked.kind,
            "domain": domain,
            "margin": asked.margin,
            "seeds": asked.seeds,
        },
    )


def label_of(config: SweepConfig, domain: str) -> ScoreLabel:
    """What a domain's score is called and how it is shown."""
    return ScoreLabel.of([(b.name, b.metric) for b in config.domains[domain].benchmarks])


def write_study_report(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> ReportPaths:
    """Write the report of a study of any kind."""
    folder = place_of(config).study(domain) / "report"
    if config.study.kind == "sensitivity":
        return write_sensitivity(sensitivity_data(config, domain, study, rows, scores), folder)
    data = StudyData(
        name=config.name,
        domain=domain,
        label=label_of(config, domain),
        rows=rows,
        best=best_row(rows),
        test_results=scores.entries,
        config_yaml=config_yaml(config),
    )
    return write_report(data, folder)


def sensitivity_data(
    config: SweepConfig,
    domain: str,
    study: optuna.Study,
    rows: tuple[TrialRow, ...],
    scores: TestScores,
) -> SensitivityData:
    """What the report of a sensitivity study is made of."""
    manifest = study.user_attrs.get(MANIFEST, {})
    declared = f"declared {manifest.get('declared', 'at an unknown time')}, before the first trial"
    if manifest.get("seeds") not in (None, config.study.seeds):
        declared += f"; with {manifest['seeds']} seeds, {config.study.seeds} now"
    margin = config.study.margin
    assert margin is not None  # a sensitivity study without one is refused
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
    """What the tracker shows on the study itself: the best score, or means with intervals."""
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
    return {} if best is None or best.score is None else {"final/score": best.score}
