"""Optuna's database beside a server that is stopped at any moment."""

from __future__ import annotations

import sqlite3
import threading
from functools import wraps
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError

from sweeps.search.optuna_storage import InterruptSafeStorage, open_storage
from sweeps.storage.study_paths import StudyPaths


def test_an_end_whose_answer_is_lost_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=InterruptSafeStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    )
    trial, other = study.ask(), study.ask()
    record = RDBStorage.set_trial_state_values
    lost: list[object] = []

    @wraps(record)
    def lose_the_answer(self: RDBStorage, *given: object, **named: object) -> bool:
        answer = record(self, *given, **named)  # type: ignore[arg-type]
        if not lost:
            lost.append(given)
            cause = DBAPIError("commit", (), Exception("gone"), connection_invalidated=True)
            raise StorageInternalError("it may be there") from cause
        return answer

    monkeypatch.setattr(RDBStorage, "set_trial_state_values", lose_the_answer)
    study.tell(trial, 0.5)
    assert len(lost) == 1
    study.tell(other, 0.25)
    assert [each.value for each in study.trials] == [0.5, 0.25]
    with pytest.raises(UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial._trial_id, "note", "late")


def test_a_new_database_appears_with_all_its_tables(tmp_path: Path) -> None:
    """A `status` that sees it earlier would add tables beside the driver, which then fails."""
    place, seen = StudyPaths(tmp_path), list[tuple[str]]()

    def watch() -> None:
        while not place.optuna_file().exists():
            pass
        with sqlite3.connect(place.optuna_file()) as database:
            seen.extend(database.execute("select version_num from alembic_version"))

    reader = threading.Thread(target=watch)
    reader.start()
    storage = open_storage(place)
    reader.join()
    assert seen == [(storage.get_current_version(),)]
    assert list(tmp_path.iterdir()) == [place.optuna_file()]
