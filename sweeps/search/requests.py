"""What a person asks of a search from outside: to queue a point, fork a trial or stop one.

A request is a file in the sweep's folder (`sweeps.storage.mailbox`). The trial that it adds has
its name, so no driver adds it twice. The file stays until that trial has ended: the database of a
driver whose machine is lost may be older than its last request.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from sweeps.config.search_config import AskedPoint
from sweeps.config.search_space import MASKING, Point, SpaceConfig, identity, is_whole
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.validation_errors import explain
from sweeps.finetune.run_identity import FORK_CHANGES
from sweeps.search.attempt_records import (
    FORK,
    KEY,
    NUMBER,
    POINT,
    REQUEST,
    STOPPED,
    Lineage,
    is_foreign,
    is_void,
    point_of,
    recorded_params,
)
from sweeps.storage.errors import UserError
from sweeps.storage.mailbox import Mailbox

Kind = Literal["queue", "fork", "stop"]


@final
@dataclass(frozen=True)
class Request:
    """A request to one study. ``point``: the given values of a queued point, or all of a fork's.
    ``trial``: the number of the trial to stop. ``lineage``: the start of a fork."""

    kind: Kind
    domain: str
    point: Point = field(default_factory=dict)
    trial: int = -1
    lineage: Lineage | None = None

    def name(self) -> str:
        """A new file name, which sorts by time; that of a stop is always the same."""
        if self.kind == "stop":
            return f"stop-{self.domain}-{self.trial}.json"
        return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"

    def text(self) -> str:
        """The request as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Request:
        """The request that `text` wrote."""
        tree = json.loads(text)
        lineage = tree.pop("lineage")
        return cls(**tree, lineage=lineage and Lineage(**lineage))


def requests_of(texts: Mapping[str, str], domain: str) -> dict[str, Request]:
    """The requests to one study, by name."""
    found = {name: Request.parse(text) for name, text in texts.items()}
    return {name: request for name, request in found.items() if request.domain == domain}


def unseen(requests: Mapping[str, Request], trials: Iterable[FrozenTrial]) -> list[Request]:
    """The requests to add a trial, by name, that no driver has taken yet."""
    known = {trial.user_attrs.get(REQUEST) for trial in trials}
    found = [one for name, one in requests.items() if name not in known]
    return [request for request in found if request.kind != "stop"]


def queue_request(
    config: SweepConfig,
    domain: str,
    trials: Sequence[FrozenTrial],
    values: Mapping[str, Any],
    waiting: Iterable[Request] = (),
) -> Request:
    """The request to queue a point; the sampler draws the parameters that ``values`` leaves out.

    ``waiting``: requests that no driver has seen yet.

    Raises:
        UserError: the point is outside the space, or equals one of the search's.
    """
    check_search(config)
    space = config.space_of(domain)
    point = _asked("queue", values)
    if config.search.sampler == "grid":
        raise UserError("queue: search.sampler grid runs every point of the space anyway")
    try:
        space.check_point(point, "queue")
    except ValueError as error:
        raise UserError(str(error)) from None
    for name in point:
        if missing := space.condition(name).keys() - point.keys():
            raise UserError(f"queue: {name} depends on {', '.join(sorted(missing))}: give both")
    _check_new(space, point, [*_tried(trials), *((r.point, "a point") for r in waiting)])
    return Request("queue", domain, point)


def _asked(place: str, values: Mapping[str, Any]) -> Point:
    try:
        return AskedPoint.model_validate(dict(values)).root
    except ValidationError as error:
        raise explain(error, AskedPoint, place) from None


def check_search(config: SweepConfig) -> None:
    """Raise a UserError unless the sweep is a search."""
    if config.study.kind != "search":
        raise UserError(
            f"study.kind is {config.study.kind}: a fixed design compares exactly the trials that "
            "it names; only a search allows adding or stopping trials"
        )


def _tried(trials: Sequence[FrozenTrial]) -> list[tuple[Point, str]]:
    """The points of a search, each with the name of its trial."""
    return [
        (point_of(trial), f"trial {trial.user_attrs[NUMBER]}")
        if NUMBER in trial.user_attrs
        else (point_of(trial), "a point")
        for trial in trials
        if not (is_void(trial) or is_foreign(trial) or FORK in trial.user_attrs)
        and "stage" not in point_of(trial)
    ]


def _check_new(space: SpaceConfig, point: Point, tried: Sequence[tuple[Point, str]]) -> None:
    names = {identity(space, one): name for one, name in tried if is_whole(space, one)}
    if is_whole(space, point):
        if name := names.get(identity(space, point)):
            done = "has this point" if name.startswith("trial") else "with these values waits"
            raise UserError(f"queue: {name} {done} already; no point is trained twice")
        return
    try:
        fitting = [one for one in space.grid() if one.items() >= point.items()]
    except ValueError:  # in an infinite space there is always another
        return
    if all(identity(space, one) in names for one in fitting):
        raise UserError("queue: every point with these values has been trained or waits")


def fork_request(
    config: SweepConfig,
    domain: str,
    trials: Sequence[FrozenTrial],
    number: int,
    step: int,
    values: Mapping[str, Any],
) -> Request:
    """The request to continue a trial from its checkpoint of ``step`` with changed values.

    Raises:
        UserError: a value cannot change there, or the study has this fork.
    """
    check_search(config)
    parent, place = latest(domain, trials, number), f"fork of trial {number}"
    changed = _asked(place, values)
    before = config.space_of(domain).point(recorded_params(parent))
    for name in changed:
        if name not in FORK_CHANGES:
            raise UserError(
                f"{place}: {name} cannot change, since it decides the model, the state of the "
                f"optimizer or what an update reads; expected some of {', '.join(FORK_CHANGES)}"
            )
    method = str(before.get("method", config.training.method))
    if "mask_ratio" in changed and method not in MASKING:
        raise UserError(f"{place}: its method, {method}, has no mask_ratio: expected none")
    point = {**before, **changed, "stage": FORK}
    try:
        config.check_trial(domain, point)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None
    steps = config.trial(domain, point).steps(config.resources.workers)
    if steps <= step:
        raise UserError(
            f"{place}: its checkpoint follows update {step}, and the fork ends after update "
            f"{steps}: expected more examples"
        )
    lineage = Lineage(number, parent.user_attrs[KEY], step)
    _check_new_fork(trials, lineage, point)
    return Request("fork", domain, point, lineage=lineage)


def _check_new_fork(trials: Sequence[FrozenTrial], lineage: Lineage, point: Point) -> None:
    for trial in trials:
        if Lineage.of(trial) == lineage and trial.user_attrs[POINT] == point:
            number = trial.user_attrs.get(NUMBER)
            name = "a waiting trial" if number is None else f"trial {number}"
            raise UserError(f"fork of trial {lineage.trial}: {name} is already this fork")


def latest(domain: str, trials: Sequence[FrozenTrial], number: int) -> FrozenTrial:
    """The latest attempt of a trial that has a point.

    Raises:
        UserError: there is no such trial.
    """
    found = {int(trial.user_attrs[NUMBER]): trial for trial in trials if KEY in trial.user_attrs}
    if number not in found:
        numbers = ", ".join(map(str, sorted(found))) or "none yet"
        raise UserError(f"domain '{domain}' has no trial {number}; its trials: {numbers}")
    return found[number]


@final
class Inbox:
    """The requests to one study, for its driver."""

    def __init__(
        self, config: SweepConfig, domain: str, study: optuna.Study, say: Callable[[str], None]
    ) -> None:
        self._config, self._domain, self._study, self._say = config, domain, study, say
        self._box = Mailbox(paths_for(config))

    def accept(self) -> int:
        """Queue the trials that were asked for; returns how many are new."""
        self.note_stops({})
        new = 0
        for name, request in self._due("queue", "fork").items():
            trials = self._study.get_trials(deepcopy=False)
            added = [trial for trial in trials if trial.user_attrs.get(REQUEST) == name]
            if not added and self._queue(name, request, trials):
                new += 1
            elif all(trial.state.is_finished() for trial in added[-1:]):
                self._settle(name)
        return new

    def note_stops(self, running: Mapping[int, optuna.Trial]) -> None:
        """Mark the ``running`` trials, by number, that were asked to stop.

        A request for an interrupted trial waits for its next attempt, one for an ended trial goes.
        """
        for name, request in self._due("stop").items():
            if request.trial in running:
                running[request.trial].set_user_attr(STOPPED, True)
            elif request.trial not in self._unfinished():
                self._settle(name)

    def _unfinished(self) -> set[int]:
        states = (TrialState.WAITING, TrialState.RUNNING)
        trials = self._study.get_trials(deepcopy=False, states=states)
        return {int(trial.user_attrs.get(NUMBER, -1)) for trial in trials}

    def waits(self) -> bool:
        """Whether a request has come whose trial is not on record."""
        return bool(unseen(self._due("queue", "fork"), self._study.get_trials(deepcopy=False)))

    def _due(self, *kinds: Kind) -> dict[str, Request]:
        with suppress(OSError):  # an outage: the next look finds them
            found = requests_of(self._box.due(), self._domain)
            return {name: one for name, one in found.items() if one.kind in kinds}
        return {}

    def _settle(self, name: str) -> None:
        with suppress(OSError):
            self._box.remove(name)

    def _queue(self, name: str, request: Request, trials: Sequence[FrozenTrial]) -> bool:
        attrs: dict[str, Any] = {REQUEST: name}
        try:
            if request.lineage is None:
                queue_request(self._config, self._domain, trials, request.point)
            else:
                _check_new_fork(trials, request.lineage, request.point)
                attrs |= {FORK: asdict(request.lineage), POINT: request.point}
        except UserError as error:  # it changed since the request was made
            self._say(f"{self._domain}: a request was dropped: {error}")
            return False
        self._study.enqueue_trial({} if request.lineage else request.point, user_attrs=attrs)
        self._say(f"{self._domain}: a requested {request.kind} waits for a free slot")
        return True
