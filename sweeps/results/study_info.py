"""What a tracker is told of a study when it begins."""

from __future__ import annotations

from sweeps.config import SweepConfig
from sweeps.designs.design import Design
from sweeps.folder.identity import git_commit
from sweeps.results.manifest import config_yaml
from sweeps.tracking.tracker import StudyInfo


def study_info(config: SweepConfig, domain: str, design: Design | None) -> StudyInfo:
    """The study of one domain: a search, a measurement of efficiency, or where there is a
    ``design`` its fixed trials."""
    if design is not None:
        trials = "fixed design"
        note = f"Fixed design '{config.study.kind}': {config.study.seeds} seeds for each arm."
    elif config.study.kind == "efficiency":
        trials, note = "0", "Training speed of each method beside SFT; it has no trials."
    else:
        trials = str(config.search_trials(domain))
        note = (
            f"Search over mask ratio, accumulation interval and learning rate: {trials} trials, "
            f"sampler {config.search.sampler}."
        )
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
    )
