"""The data of a study's report, from its records."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, final

import optuna

from sweeps.config.study_config import ArmConfig, StudyConfig
from sweeps.config.study_identity import MANIFEST, config_yaml, git_commit
from sweeps.config.sweep_config import SweepConfig
from sweeps.execution.paired_tests import paired_tests
from sweeps.execution.shared_trials import sibling
from sweeps.execution.test_scoring import TestScores
from sweeps.report.methods_page import ComparisonData
from sweeps.report.sensitivity import SensitivityData
from sweeps.report.trial_row import ScoreLabel, StudyData, TrialRow, benchmark_text
from sweeps.search.attempt_records import NUMBER
from sweeps.search.fixed_designs import DataDesign, MethodsDesign, build_design
from sweeps.search.trial_records import Records, best_row, label_of, own_rows


@final
@dataclass(frozen=True)
class StudyRecord:
    """A domain's study on record: its trials, and the scores of some on test items."""

    config: SweepConfig
    domain: str
    study: optuna.Study
    rows: tuple[TrialRow, ...]
    scores: TestScores = field(default_factory=TestScores)

    @classmethod
    def of(cls, records: Records, domain: str) -> Self | None:
        """That of a domain; None if its study has not started."""
        if (study := records.study(domain)) is None:
            return None
        scores = TestScores.read(records.place.study(domain))
        return cls(records.config, domain, study, records.rows(domain), scores)

    @property
    def label(self) -> ScoreLabel:
        """The name of the domain's score and how it is shown."""
        return label_of(self.config, self.domain)


def search_data(record: StudyRecord) -> StudyData:
    """The data for the report of a search."""
    config, rows, scores = record.config, record.rows, record.scores
    return StudyData(
        name=config.name,
        domain=record.domain,
        label=record.label,
        rows=own_rows(rows),
        best=best_row(rows),
        test_results=scores.entries,
        config_yaml=config_yaml(config),
        replicates=tuple(r for r in rows if r.stage and r.parent is None and not r.origin),
        forks=tuple(row for row in rows if row.parent is not None),
        objectives=config.objectives(),
        paired=paired_tests(scores),
        shortfall=config.shortfall(record.domain),
        elsewhere=tuple(row for row in rows if row.origin),
    )


def comparison_data(record: StudyRecord) -> ComparisonData:
    """The data for the report of several methods."""
    config, domain, rows = record.config, record.domain, record.rows
    asked, design = config.study, build_design(config, domain)
    arms = design.ratios(rows) if isinstance(design, MethodsDesign) else {}
    return ComparisonData(
        name=config.name,
        domain=domain,
        kind=asked.kind,
        label=record.label,
        rows=rows,
        config_yaml=config_yaml(config),
        mask_ratio=design.mask_ratio if isinstance(design, DataDesign) else arms.get("gmt"),
        arms=arms,
        choices=choices(asked),
        margin=asked.margin,
        declared=declaration(record),
        drop_rates=tuple(sorted(asked.drop_rates)),
        fractions=tuple(sorted(asked.fractions)),
        tests=record.scores.entries,
        items=record.scores.items,
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


def sensitivity_data(record: StudyRecord) -> SensitivityData:
    """The data for the report of a sensitivity study."""
    config, margin = record.config, record.config.study.margin
    assert margin is not None  # validation requires it for a sensitivity study
    return SensitivityData(
        name=config.name,
        domain=record.domain,
        label=record.label,
        ratios=config.study.ratios,
        method=config.training.method,
        margin=margin,
        rows=record.rows,
        declared=declaration(record),
        config_yaml=config_yaml(config),
        items=record.scores.items,
    )


def declaration(record: StudyRecord) -> str:
    """When a study's margin was declared, and with how many seeds if there are others now."""
    manifest, now = record.study.user_attrs.get(MANIFEST, {}), record.config.study.seeds
    declared = f"preregistered {manifest.get('declared', 'at an unknown time')}, before the first "
    if (seeds := manifest.get("seeds")) in (None, now):
        return f"{declared}trial"
    return f"{declared}trial; with {seeds} seeds, {now} now"


def learning_curves(study: optuna.Study, checks: int) -> dict[int, list[tuple[float, float]]]:
    """By trial number, (share of the updates, score) at each check; of the newest attempt."""
    return {
        trial.user_attrs[NUMBER]: [(n / checks, y) for n, y in trial.intermediate_values.items()]
        for trial in study.get_trials(deepcopy=False)
        if NUMBER in trial.user_attrs
    }


def facts(record: StudyRecord) -> list[tuple[str, str]]:
    """What was run in a domain's study."""
    study, model = record.study, record.config.model
    parts = record.config.domains[record.domain]
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
