"""The data of a study's report, from its records."""

from __future__ import annotations

from pathlib import Path

import optuna

from sweeps.config.study_config import ArmConfig, StudyConfig
from sweeps.config.study_identity import MANIFEST, config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.paired_tests import paired_tests
from sweeps.execution.shared_trials import sibling
from sweeps.execution.test_scores import TestScores
from sweeps.report.methods_page import ComparisonData
from sweeps.report.sensitivity import SensitivityData
from sweeps.report.trial_row import StudyData, TrialRow, benchmark_text
from sweeps.search.attempts import NUMBER
from sweeps.search.fixed_designs import DataDesign, MethodsDesign, build_design
from sweeps.search.trial_records import Records, best_row, label_of, own_rows


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
    )


def declaration(config: SweepConfig, study: optuna.Study) -> str:
    """When a study's margin was declared, and with how many seeds if there are others now."""
    manifest = study.user_attrs.get(MANIFEST, {})
    declared = f"preregistered {manifest.get('declared', 'at an unknown time')}, before the first "
    if (seeds := manifest.get("seeds")) in (None, config.study.seeds):
        return f"{declared}trial"
    return f"{declared}trial; with {seeds} seeds, {config.study.seeds} now"


def learning_curves(study: optuna.Study, checks: int) -> dict[int, list[tuple[float, float]]]:
    """By trial number, (share of the updates, score) at each check; of the newest attempt."""
    return {
        trial.user_attrs[NUMBER]: [(n / checks, y) for n, y in trial.intermediate_values.items()]
        for trial in study.get_trials(deepcopy=False)
        if NUMBER in trial.user_attrs
    }


def facts(config: SweepConfig, domain: str, study: optuna.Study) -> list[tuple[str, str]]:
    """What was run in a domain's study."""
    parts, model = config.domains[domain], config.model
    ended = [t.datetime_complete for t in study.get_trials(deepcopy=False) if t.datetime_complete]
    days = [f"{time:%Y-%m-%d}" for time in sorted(ended)]
    commit = study.user_attrs.get(MANIFEST, {}).get("commit", git_commit())
    return [
        ("model", " at ".join(filter(None, (_name(model.path), model.revision)))),
        ("data", ", ".join(_name(part.path) for part in parts.data.parts().values())),
        ("score", ", ".join(benchmark_text(_name(b.name), b.metric) for b in parts.benchmarks)),
        ("date", " to ".join(dict.fromkeys((*days[:1], *days[-1:])))),
        ("commit", commit),
    ]


def _name(path: str) -> str:
    """The end of a path, or a name of the hub."""
    return "/".join(Path(path).parts[-2:])
