"""The command line, as on a machine where each worker has a GPU: its usage is counted.

`python benchmarks/fault_stand_in.py [--twice] run FILE`. With ``--twice`` it is deliberately
broken: the first point of a study is run again once all are done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from sweeps.cli.app import main
from sweeps.config.budget import UsageTracker
from sweeps.execution import study_session, sweep
from sweeps.search.attempt_records import queue_points

if TYPE_CHECKING:
    import optuna

    from sweeps.config.search_space import Point

WORKERS = 2


def counting(budget: Any, gpus: float, *given: Any, **named: Any) -> UsageTracker:
    """A usage tracker for trials whose workers have a GPU each."""
    return UsageTracker(budget, float(WORKERS), *given, **named)


def twice(
    study: optuna.Study, points: Iterable[Point], attrs: Mapping[str, Any] | None = None
) -> int:
    """`queue_points` with a fault: it queues the first point again, after the first stage."""
    wanted = list(points)
    queued = queue_points(study, wanted, attrs)
    again = {"again": True}
    is_broken = any("again" in trial.user_attrs for trial in study.trials)
    if queued or is_broken or not study.trials:
        return queued
    study.enqueue_trial(wanted[0], user_attrs=again)
    return 1


if __name__ == "__main__":
    with ExitStack() as stack:
        stack.enter_context(patch.object(sweep, "UsageTracker", counting))
        if sys.argv[1] == "--twice":
            del sys.argv[1]
            stack.enter_context(patch.object(study_session, "queue_points", twice))
        main()
