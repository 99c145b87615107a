"""What makes two trials, or two studies, the same one."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps.config import SweepConfig
from sweeps.finetune.config import FinetuneConfig

Tree = dict[str, Any]

_BESIDE_THE_RESULT = {"threads", "checkpoint_updates", "statistics_every"}


def digest(tree: Mapping[str, Any]) -> str:
    """Ten hex digits of the SHA-256 of a tree of plain values; the order of keys is ignored."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def trial_key(
    number: int, config: FinetuneConfig, workers: int, derived: Tree | None = None
) -> str:
    """``007-3f2a90b1cc``: the trial's place in its study and the digest of what it runs.

    ``derived``: what a model that is not trained follows from.
    """
    tree = {"run": config.model_dump(mode="json"), "workers": workers}
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
    search = config.search.model_dump(mode="json", include={"scheduler"})
    return {
        **_shared_definition(config, domain),
        "search": search,
        "space": config.space_of(domain).model_dump(mode="json"),
    }


def _shared_definition(config: SweepConfig, domain: str) -> Tree:
    own = {"space", "nuisance", "mask_ratio"}
    return {
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "training": config.training.model_dump(mode="json", exclude=_BESIDE_THE_RESULT),
        "evaluation": config.evaluation.model_dump(mode="json"),
        "domain": config.domains[domain].model_dump(mode="json", exclude=own),
        "resources": {"workers": config.resources.workers},
    }


def _design_definition(config: SweepConfig, domain: str) -> Tree:
    """More seeds leave a fixed design the same study; another margin does not: it was declared."""
    study, parts = config.study, config.domains[domain]
    nuisance = parts.nuisance or study.nuisance
    asked = study.model_dump(mode="json", exclude={"seeds", "fresh_seeds", "paper", "rounds"})
    return {
        **_shared_definition(config, domain),
        "study": {
            **asked,
            "nuisance": None if nuisance is None else nuisance.model_dump(mode="json"),
            "mask_ratio": parts.mask_ratio or study.mask_ratio,
        },
    }


def differences(before: Tree, now: Tree, place: str = "") -> list[str]:
    """Readable lines for every leaf in which two definitions differ."""
    lines: list[str] = []
    for key in sorted({*before, *now}):
        here, old, new = f"{place}{key}", before.get(key), now.get(key)
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
