"""A sweep's records as anybody may read them, from any terminal, while it runs or long after."""

from __future__ import annotations

from typing import final

import optuna

from sweeps.config import SweepConfig, resolve_paths
from sweeps.errors import UserError
from sweeps.folder.drivers import living_drivers
from sweeps.folder.paper_place import is_paper, study_place
from sweeps.folder.place import place_of
from sweeps.folder.stored import refresh
from sweeps.report.data import TrialRow
from sweeps.search.open_storage import open_storage
from sweeps.search.rows import trial_rows


@final
class Records:
    """Opens a sweep's storage and changes nothing in it.

    Raises:
        UserError: nothing of this sweep is there.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = resolve_paths(config)
        self.place = place_of(self.config)
        refresh(self.place)
        if not self.place.begun_file().is_file():
            raise UserError(_missing(self.config))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._open()

    def _open(self) -> None:
        self._file = self.place.begun_file().stat().st_ino
        self._storage = open_storage(self.place)
        self._studies: dict[str, optuna.Study] = {}

    def look_again(self) -> None:
        """Fetch what is new, where the storage is an object store."""
        refresh(self.place)

    def study(self, domain: str) -> optuna.Study | None:
        """The domain's study; None before it has begun."""
        if self.place.begun_file().stat().st_ino != self._file:
            self._storage.engine.dispose()  # of a cluster's sweep, copies follow one another here
            self._open()
        name = f"{self.config.name}/{domain}"
        if domain not in self._studies and name in optuna.get_all_study_names(self._storage):
            self._studies[domain] = optuna.load_study(study_name=name, storage=self._storage)
        return self._studies.get(domain)

    def begun(self) -> dict[str, tuple[TrialRow, ...]]:
        """The trials of every domain whose study has begun."""
        return {name: self.rows(name) for name in self.config.domains if self.study(name)}

    def trials(self, domain: str) -> list[optuna.trial.FrozenTrial]:
        """The domain's trials as Optuna has them, every try of each."""
        study = self.study(domain)
        return [] if study is None else study.get_trials(deepcopy=False)

    def rows(self, domain: str) -> tuple[TrialRow, ...]:
        """The domain's trials, as `trial_rows` gives them."""
        study = self.study(domain)
        return () if study is None else trial_rows(study, self.config.seed)


def _missing(config: SweepConfig) -> str:
    if is_paper(config):
        first = study_place(config, config.study.paper[0]).folder
        return f"{config.name} is a paper: give one of its studies, as {first}"
    if drivers := living_drivers(place_of(config).folder):
        return (
            f"{config.name} is being started, by {drivers[0]}: nothing is on record yet, ask "
            "again in some seconds"
        )
    return (
        f"no sweep named '{config.name}' in {config.storage}: run it first, or give its storage, "
        "as storage=runs"
    )


def recorded_rows(config: SweepConfig) -> dict[str, tuple[TrialRow, ...]]:
    """The trials on record by domain: none of a sweep that was never run."""
    refresh(place_of(config))
    if not place_of(config).begun_file().is_file():
        return dict.fromkeys(config.domains, ())
    records = Records(config)
    return {name: records.rows(name) for name in config.domains}
