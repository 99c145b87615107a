"""Shared by the tests of searches."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    """Optuna logs errors only; `one_thread` keeps its Gaussian process on one thread."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)
