"""The paths of a sweep's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweeps.storage.address import Address, cluster_address, sqlite_address
from sweeps.storage.atomic_io import atomic_write
from sweeps.storage.command_line import command_line
from sweeps.storage.trial_files import CHECKPOINTS, FORKS, RUN_FILE

RESOLVED = "sweep.yaml"
"""In a sweep's folder: the configuration of its last run, with defaults. Paths are absolute, or
names that every machine knows."""


@final
@dataclass(frozen=True)
class StudyPaths:
    """The paths of one sweep's studies, all below ``storage/name``."""

    folder: Path
    address: Address | None = None
    """Of the object store that ``folder`` mirrors, if the storage is one."""

    database: str | None = None
    """The server's database with the studies, where it is no file."""

    def optuna_url(self) -> str:
        """The storage that holds every study of the sweep."""
        return self.database or sqlite_address(self.optuna_file())

    def created_marker(self) -> Path:
        """Exists once the database holds a study of the sweep; it is the database, if that is a
        file."""
        return self.optuna_file() if self.database is None else self.folder / "database"

    def config_file(self) -> Path:
        """The configuration of the sweep's last run, with resolved paths."""
        return self.folder / RESOLVED

    def optuna_file(self) -> Path:
        """The newest file behind ``optuna_url``; absent before the first study."""
        live, copy = self.optuna_live(), self.optuna_copy()
        return live if live.exists() or not copy.exists() else copy

    def optuna_copy(self) -> Path:
        """The database in the storage: the file itself, or the newest copy in a cluster."""
        return self.folder / "optuna.db"

    def optuna_live(self) -> Path:
        """The file a driver writes.

        In a cluster, or with an object store, it is on the driver's own disk (see
        `sweeps.storage.database_backup`).
        """
        is_here = not cluster_address() and self.address is None
        if is_here or self.database is not None:
            return self.optuna_copy()
        key = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path("~/.gmt-sweep").expanduser() / f"{self.folder.name}-{key}" / "optuna.db"

    def is_copied(self) -> bool:
        """Whether the storage only has a copy of a database on the driver's own disk."""
        return self.optuna_live() != self.optuna_copy()

    def driver_log(self) -> Path:
        """The operational log of the sweep's drivers."""
        return self.folder / "driver.log"

    def study(self, domain: str) -> Path:
        """The folder of one domain's study: its trials, test scores and report."""
        return self.folder / domain

    def trial(self, domain: str, key: str) -> Path:
        """The folder of one trial."""
        return self.study(domain) / "trials" / key

    def checkpoints(self, domain: str, key: str) -> Path:
        """The folder of a trial's checkpoints."""
        return self.trial(domain, key) / CHECKPOINTS

    def fork_starts(self, domain: str, key: str) -> Path:
        """The folder of those checkpoints of a trial that forks start from."""
        return self.study(domain) / FORKS / key / CHECKPOINTS

    def model(self, domain: str, key: str) -> Path:
        """The folder of a trial's model."""
        return self.trial(domain, key) / "model"


def alone(folder: Path) -> str:
    """The command that runs a trial by itself, from its folder."""
    return command_line("finetune", folder / RUN_FILE)


LINKS_FILE = "links.json"


def save_links(study: Path, links: Mapping[str, str]) -> None:
    """Write the links, label to page, into the folder of a study."""
    study.mkdir(parents=True, exist_ok=True)
    atomic_write(study / LINKS_FILE, json.dumps(links, indent=1))


def saved_links(study: Path) -> dict[str, str]:
    """The links of a study; empty until the tracker has it."""
    try:
        links: dict[str, str] = json.loads((study / LINKS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return links


def by_name(links: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The links of several studies by name, as those of one: label to page."""
    return {f"{name}: {label}": page for name, own in links.items() for label, page in own.items()}


def ways_to(links: Mapping[str, str], folder: Path | str) -> dict[str, str]:
    """What a person opens or types: the pages of a server or, for a local store, the command that
    serves it. ``folder``: the sweep's."""
    served = {label: page for label, page in links.items() if "://" in page}
    return served if served or not links else {"MLflow": command_line("ui", folder)}
