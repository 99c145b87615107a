"""The seeds of a search's points: a point's score is the mean over its trials.

The sampler draws the first trial of a point, with the seed of the sweep. The trials of the other
seeds are queued beside it. Optuna hears of the point once all have ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.config.search_space import Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.search.attempt_records import (
    FORK,
    INCOMPLETE,
    REQUEST,
    RETRY_OF,
    incomplete,
    latest_attempts,
    queue_points,
)
from sweeps.search.design import REPLICATE
from sweeps.search.optuna_compat import set_attr, set_constraint
from sweeps.search.outcomes import judged, optuna_state

SCORES = "scores"
"""In the outcome of a point: the scores of its seeds, the sweep's own first."""


@final
class PointSeeds:
    """Queues the other seeds of a study's points, and tells Optuna of complete points."""

    def __init__(self, study: optuna.Study, config: SweepConfig) -> None:
        self._study, self._config = study, config
        self._others = config.search.replicates - 1 if config.study.kind == "search" else 0

    def begin(self, trial: FrozenTrial) -> None:
        """Queue the other seeds of a trial's point, once."""
        if self._others and not {"stage", FORK} & {*trial.params, *trial.user_attrs}:
            kept = {REQUEST: trial.user_attrs[REQUEST]} if REQUEST in trial.user_attrs else {}
            first = self._config.seed + 1
            seeds = range(first, first + self._others)
            own: Point = {**trial.params, "stage": REPLICATE}
            queue_points(self._study, [{**own, "seed": seed} for seed in seeds], kept)

    def state(self, trial: optuna.Trial, ended: Mapping[str, Any]) -> TrialState:
        """What Optuna is to hear of an ended trial itself; RUNNING if its point decides."""
        if self._others and trial.params.get("stage") == REPLICATE:
            return TrialState.FAIL  # samplers ignore it
        is_first = "stage" not in trial.params and FORK not in trial.user_attrs
        if self._others and is_first and ended["state"] == "finished":
            trial.set_user_attr(INCOMPLETE, True)
            return TrialState.RUNNING
        return optuna_state(ended)

    def settle(self) -> None:
        """Tell Optuna of the points whose trials have all ended."""
        for trial in incomplete(self._study):
            others = self._ended(trial.params)
            if len(others) >= self._others:
                self._tell(trial, averaged([trial.user_attrs["outcome"], *others]))
            else:  # a changed space may have left some out
                self.begin(trial)

    def _ended(self, point: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The outcomes of a point's other seeds that have ended, by seed."""
        wanted = {**point, "stage": REPLICATE}.items()
        found = {
            trial.params["seed"]: trial.user_attrs["outcome"]
            for trial in latest_attempts(self._study)
            if wanted <= trial.params.items()
            and trial.state.is_finished()
            and "outcome" in trial.user_attrs
        }
        return [found[seed] for seed in sorted(found)]

    def _tell(self, trial: FrozenTrial, ended: dict[str, Any]) -> None:
        set_attr(self._study, trial, "outcome", ended)
        if ended["state"] != "finished":
            self._study.tell(trial.number, state=optuna_state(ended))
            return
        found = judged(ended, self._config.objectives(), self._config.search.constraints)
        assert found is not None  # each trial has them among its metrics
        for name, amount in found[1].items():
            set_constraint(self._study, trial, name, amount)
        self._study.tell(trial.number, found[0])


def averaged(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The outcome of a point: that of its first trial with the means over all, with the cause if
    one failed, or with the state of one that was stopped."""
    first = dict(outcomes[0])
    if SCORES in first:
        return first  # a driver was killed before it told Optuna
    for ended in outcomes:
        if ended["state"] == "failed":
            said = f"another seed of this point failed: {ended['failure']}"
            return {**first, "state": "failed", "failure": said, "kind": ended["kind"]}
    for ended in outcomes:
        if ended["state"] != "finished":  # the user stopped it
            return {**first, "state": ended["state"]}
    scores = [ended["score"] for ended in outcomes]
    names = [name for name in first["metrics"] if name.startswith("objective/")]
    means = {name: mean(ended["metrics"][name] for ended in outcomes) for name in names}
    metrics = {**first["metrics"], **means}
    return {**first, "score": mean(scores), "metrics": metrics, SCORES: scores}


def reopen(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let a point that failed for another seed wait for it again."""
    ended = {**trial.user_attrs["outcome"], "state": "finished", "failure": "", "kind": ""}
    attrs = {**trial.user_attrs, "outcome": ended, RETRY_OF: trial.number}
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attrs,
        )
    )
