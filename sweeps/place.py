"""Where the studies of a sweep lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from sweeps.config import SweepConfig


@final
@dataclass(frozen=True)
class StudyPlace:
    """Where the studies of one sweep lie: everything below ``storage/name``."""

    folder: Path

    def optuna_url(self) -> str:
        """The storage that holds every study of the sweep."""
        return f"sqlite:///{self.optuna_file()}"

    def optuna_file(self) -> Path:
        """The file of ``optuna_url``; absent before the first study."""
        return self.folder / "optuna.db"

    def study(self, domain: str) -> Path:
        """The folder of one domain's study: its trials, test scores and report."""
        return self.folder / domain

    def trial(self, domain: str, key: str) -> Path:
        """The folder of one trial."""
        return self.study(domain) / "trials" / key


def place_of(config: SweepConfig) -> StudyPlace:
    """The folder that a sweep's name stands for in its storage."""
    return StudyPlace(Path(config.storage).expanduser().resolve() / config.name)
