"""What a study keeps on disk, and what it removes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna

from sweeps.config.sweep_config import KeepConfig
from sweeps.report.trial_row import EARLIER_SPACE, TrialRow
from sweeps.search.attempt_records import FORK
from sweeps.search.design import Design
from sweeps.search.trial_records import best_rows, best_sft_row
from sweeps.storage.remote_sync import Remove, remove_here
from sweeps.storage.trial_files import CHECKPOINTS, MODEL


def drop_weights(
    trials: Path,
    rows: tuple[TrialRow, ...],
    keep: KeepConfig,
    design: Design | None,
    remove: Remove = remove_here,
) -> None:
    """Remove models that are not kept by policy, not tested, and not needed to derive others.

    Checkpoints of ended trials are removed too. Forks and trials that the user stopped keep what
    they have: a person asked for each, and may fork it. ``trials``: the folder of all trials.
    ``remove``: see `sweeps.storage.remote_sync.remover`.
    """
    kept = _kept(rows, keep, design)
    kept |= {row.key for row in rows if row.stage == FORK or row.state == "stopped_by_user"}
    dropped = [row.key for row in rows if row.key and row.has_ended() and row.key not in kept]
    remove([trials / key / part for key in dropped for part in (MODEL, CHECKPOINTS)])


def _kept(rows: tuple[TrialRow, ...], keep: KeepConfig, design: Design | None) -> set[str]:
    if keep.models == "all":
        return {row.key for row in rows}
    if design is not None:
        return {row.key for row in rows if design.keeps_model(row)}
    sft = best_sft_row(rows)
    # The best outside the space as well: the space may change back.
    earlier = tuple(replace(row, origin="") for row in rows if row.origin == EARLIER_SPACE)
    best = (*best_rows(rows, keep.models), *best_rows(earlier, keep.models))
    return {row.key for row in (*best, *([sft] if sft else []))}


def remove_orphans(folder: Path, study: optuna.Study, remove: Remove = remove_here) -> None:
    """Remove leftovers of killed drivers from a study's ``folder``.

    These are trials without a record, and Tune's snapshots, which are never read.
    """
    known = {trial.user_attrs.get("key") for trial in study.get_trials(deepcopy=False)}
    remove([trial for trial in (folder / "trials").glob("*") if trial.name not in known])
    remove_here([*folder.glob("tune-*")])
