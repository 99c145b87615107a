"""What is put on record of a study before its first trial."""

from __future__ import annotations

import time

import optuna
import yaml

from sweeps.config import SweepConfig
from sweeps.folder.identity import git_commit

MANIFEST = "manifest"


def config_yaml(config: SweepConfig) -> str:
    """The resolved configuration as YAML that loads again, without whom it calls when it ends."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude={"hooks"}), sort_keys=False)


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
