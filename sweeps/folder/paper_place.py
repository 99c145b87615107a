"""Where a paper lies, and its studies beside it: each a sweep of its own, NAME-KIND."""

from __future__ import annotations

from pathlib import Path

from sweeps.config import SweepConfig
from sweeps.folder.load import save_config
from sweeps.folder.place import StudyPlace, place_of
from sweeps.settings.study_config import Kind


def study_name(config: SweepConfig, kind: Kind) -> str:
    """The name of the sweep that one study of a paper is."""
    return f"{config.name}-{kind}"


def study_place(config: SweepConfig, kind: Kind) -> StudyPlace:
    """Where it lies, or will."""
    return place_of(config.model_copy(update={"name": study_name(config, kind)}))


def report_folder(config: SweepConfig) -> Path:
    """Where the report over all studies lies, or will; it is there once the paper has begun."""
    return place_of(config).folder / "paper"


def put_on_record(config: SweepConfig) -> None:
    """A paper whose paths are resolved begins: from now on its folder says what it is."""
    report_folder(config).mkdir(exist_ok=True)
    if place_of(config).address is not None:  # an object store has no empty folders
        (report_folder(config) / "begun").touch()
    if is_paper(config):
        save_config(config)


def is_paper(config: SweepConfig) -> bool:
    """Whether what has this name is a paper; where it was run as a sweep, too, it is that."""
    return report_folder(config).is_dir() and not place_of(config).begun_file().is_file()
