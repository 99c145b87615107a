"""What identifies a trial and a study, and the manifest stored before the first trial."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import optuna
import yaml
from pydantic import BaseModel

from sweeps.config.old_records import SCHEMA
from sweeps.config.study_config import as_given
from sweeps.config.sweep_config import SweepConfig
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.run_identity import (
    BESIDE_THE_RESULT,
    Tree,
    content,
    data_identity,
    digest,
    run_identity,
)

DEFAULT = "the default"
"""The value shown for an absent setting."""


def trial_key(
    number: int, config: FinetuneConfig, workers: int, derived: Tree | None = None
) -> str:
    """``007-3f2a90b1cc``: the trial's number in its study and a digest of its run.

    ``derived``: the source of a model that is derived instead of trained.
    """
    tree = {"run": run_identity(config), "workers": workers}
    if derived is not None:
        tree["derived"] = derived
    return f"{number:03d}-{digest(tree)}"


DECISIVE = {"scheduler", "objectives", "constraints", "replicates"}
"""Settings of a search that belong to its study's definition."""


def study_definition(config: SweepConfig, domain: str) -> Tree:
    """What the trials of a study must share to be comparable.

    More trials, other resources or another tracking address do not change the study. The number of
    workers does, because the effective batch grows with it.
    """
    if config.study.kind != "search":
        return _as_recorded(_design_definition(config, domain))
    search = _plain(config.search, include=DECISIVE)
    space = _plain(config.space_of(domain))
    return _as_recorded({**_shared_definition(config, domain), "search": search, "space": space})


def _as_recorded(tree: Tree) -> Tree:
    """A definition as Optuna's records return it."""
    found: Tree = json.loads(json.dumps(tree))
    return found


def split_definition(definition: Tree) -> tuple[Tree, Tree]:
    """What decides the score of a point, and what a search may change: space and constraints.

    A fixed design may change neither.
    """
    if "space" not in definition:
        return definition, {}
    score = {**definition, "search": dict(definition["search"])}
    constraints = score["search"].pop("constraints", [])
    return score, {"space": score.pop("space"), "search": {"constraints": constraints}}


def space_definition(config: SweepConfig, domain: str) -> Tree:
    """The part of a study's definition that a search may change; reads no file."""
    if config.study.kind != "search":
        return {}
    constraints = {"constraints": config.search.constraints}
    return _as_recorded({"space": _plain(config.space_of(domain)), "search": constraints})


def _shared_definition(config: SweepConfig, domain: str) -> Tree:
    own = {"space", "nuisance", "mask_ratio"}
    shared: Tree = {
        "schema": SCHEMA,
        "seed": config.seed,
        "model": _plain(config.model),
        "training": _plain(config.training, exclude=BESIDE_THE_RESULT),
        "evaluation": _plain(config.evaluation),
        "domain": _plain(config.domains[domain], exclude=own),
        "resources": {"workers": config.resources.workers},
    }
    shared["model"]["path"] = content(config.model.path)
    shared["domain"]["data"] = data_identity(config.domains[domain].data)
    for benchmark in shared["domain"]["benchmarks"]:
        for items in ("validation", "test"):
            if isinstance(path := benchmark.get(items), str):
                # Only the report reads the test items, so use the file name instead.
                benchmark[items] = content(path) if items == "validation" else Path(path).name
    if (text := config.evaluation.forgetting) is not None:
        shared["evaluation"]["forgetting"] = content(text)
    return {**shared, "code": git_commit()} if config.pin_code else shared


def _design_definition(config: SweepConfig, domain: str) -> Tree:
    """The definition of a fixed design. More seeds keep the study; a new margin makes another."""
    study, parts = config.study, config.domains[domain]
    nuisance = parts.nuisance or study.nuisance
    ratios = parts.mask_ratio or study.mask_ratio
    asked = _plain(study, exclude={"seeds", "fresh_seeds", "paper", "rounds"})
    return {
        **_shared_definition(config, domain),
        "study": {
            **asked,
            "nuisance": None if nuisance is None else _plain(nuisance),
            "mask_ratio": None if ratios is None else as_given(ratios),
        },
    }


def _plain(model: BaseModel, **choice: set[str]) -> Tree:
    """Dump without defaults, so that adding a setting does not change recorded definitions."""
    return model.model_dump(mode="json", exclude_defaults=True, **choice)  # type: ignore[arg-type]


def differences(before: Tree, now: Tree, place: str = "") -> list[str]:
    """A readable line for every leaf in which two definitions differ."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        here, old, new = f"{place}{key}", before.get(key, DEFAULT), now.get(key, DEFAULT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{here}.")
        elif old != new:
            lines.append(f"{here}: was {old}, now {new}")
    return lines


def git_commit() -> str:
    """The commit of the running code, with "-dirty" if modified; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


DEFINITION, MANIFEST = "definition", "manifest"


def config_yaml(config: SweepConfig) -> str:
    """The resolved configuration as YAML that loads again, without its hooks."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude={"hooks"}), sort_keys=False)


def preregister(study: optuna.Study, config: SweepConfig, domain: str) -> None:
    """Store the study's criteria (margin, seeds, code version) before the first trial."""
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
