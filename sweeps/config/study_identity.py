"""What makes two trials, or two studies, the same one.

What is put on record of a study before its first trial.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import optuna
import yaml
from pydantic import BaseModel

from sweeps.config.old_records import SCHEMA
from sweeps.config.sweep_config import SweepConfig
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.run_identity import BESIDE_THE_RESULT, Tree, content, digest, run_identity

DEFAULT = "its default"
"""What a definition says of a setting that is absent."""


def trial_key(
    number: int, config: FinetuneConfig, workers: int, derived: Tree | None = None
) -> str:
    """``007-3f2a90b1cc``: the trial's place in its study and the digest of what it runs.

    ``derived``: what a model that is not trained follows from.
    """
    tree = {"run": run_identity(config), "workers": workers}
    if derived is not None:
        tree["derived"] = derived
    return f"{number:03d}-{digest(tree)}"


def study_definition(config: SweepConfig, domain: str) -> Tree:
    """What a study's trials must share to be comparable. More trials, other resources or another
    tracking address leave it the same study; the number of workers does not, since the effective
    batch grows with it.
    """
    if config.study.kind != "search":
        return _design_definition(config, domain)
    search = _plain(config.search, include={"scheduler", "objectives"})
    space = _plain(config.space_of(domain))
    return {**_shared_definition(config, domain), "search": search, "space": space}


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
    shared["domain"]["data"]["path"] = content(config.domains[domain].data.path)
    for benchmark in shared["domain"]["benchmarks"]:
        for items in ("validation", "test"):
            if isinstance(path := benchmark.get(items), str):
                # Nothing before the report reads the test items: there the name must do.
                benchmark[items] = content(path) if items == "validation" else Path(path).name
    return {**shared, "code": git_commit()} if config.pin_code else shared


def _design_definition(config: SweepConfig, domain: str) -> Tree:
    """More seeds leave a fixed design the same study; another margin does not: it was declared."""
    study, parts = config.study, config.domains[domain]
    nuisance = parts.nuisance or study.nuisance
    asked = _plain(study, exclude={"seeds", "fresh_seeds", "paper", "rounds"})
    return {
        **_shared_definition(config, domain),
        "study": {
            **asked,
            "nuisance": None if nuisance is None else _plain(nuisance),
            "mask_ratio": parts.mask_ratio or study.mask_ratio,
        },
    }


def _plain(model: BaseModel, **choice: set[str]) -> Tree:
    """Without defaults, so that a new setting changes no recorded definition."""
    return model.model_dump(mode="json", exclude_defaults=True, **choice)  # type: ignore[arg-type]


def differences(before: Tree, now: Tree, place: str = "") -> list[str]:
    """Readable lines for every leaf in which two definitions differ."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        here, old, new = f"{place}{key}", before.get(key, DEFAULT), now.get(key, DEFAULT)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{here}.")
        elif old != new:
            lines.append(f"{here} was {old}, now {new}")
    return lines


def git_commit() -> str:
    """The commit of the code that runs, "-dirty" when changed; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


DEFINITION, MANIFEST = "definition", "manifest"


def config_yaml(config: SweepConfig) -> str:
    """The resolved configuration as YAML that loads again, without whom it calls when it ends."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude={"hooks"}), sort_keys=False)


def preregister(study: optuna.Study, config: SweepConfig, domain: str) -> None:
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
