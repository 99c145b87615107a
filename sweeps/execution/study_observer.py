"""Pass events of a study's trials to the display, the tracker, and the budget."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from ray.tune.experiment import Trial as TuneTrial

from sweeps.config.budget import StopCondition
from sweeps.config.search_space import Point
from sweeps.execution.driver_log import LOG
from sweeps.execution.job_messages import TrialJob
from sweeps.execution.optuna_searcher import StudySearch
from sweeps.execution.progress import Display, point_name
from sweeps.execution.study_tally import Tally
from sweeps.search.outcomes import outcome
from sweeps.storage.study_paths import alone
from sweeps.storage.trial_files import FAILURE_FILE
from sweeps.tracking.tracker import TrialInfo
from sweeps.tracking.tracker_pump import TrackerPump


@final
class StudyObserver:
    """Shows, records and counts the trials of one study."""

    def __init__(
        self,
        search: StudySearch,
        tally: Tally,
        display: Display,
        pump: TrackerPump,
        stop_condition: StopCondition,
        seed: int,
        recorded: Callable[[], None],
    ) -> None:
        """``recorded``: called after a trial has ended and its outcome is on record."""
        self._search = search
        self._tally, self._display, self._pump, self._seed = tally, display, pump, seed
        self._stop_condition, self._recorded = stop_condition, recorded

    def added(self, trials: int) -> None:
        """Count trials that a person has requested."""
        self._tally.trials += trials

    def began(self, trial: TuneTrial) -> None:
        """Open the trial's record."""
        job: TrialJob = trial.config["job"]
        self._tally.begin(job.key, job.number, job.point)
        self._stop_condition.usage.began(trial.trial_id)  # keys may repeat across domains
        parent = job.parent, job.parent_step
        info = trial_info(job.key, job.number, job.method, job.point, self._seed, *parent)
        self._pump.begin(info, Path(job.folder))
        self._display.show(self._tally)

    def checked(self, trial: TuneTrial, result: dict[str, Any]) -> None:
        """Show an intermediate score."""
        job: TrialJob = trial.config["job"]
        for cause in result.get("retries", ()):
            said = f"{self._tally.domain} trial {job.number}: attempt lost, trying again: {cause}"
            LOG.warning(said)
            self._display.say(said)
        self._tally.check(job.key, result)
        self._display.phase("training")

    def ended(self, trial: TuneTrial, result: dict[str, Any], error: bool) -> None:
        """Close the record of a trial that finished, was stopped early or failed.

        ``error``: Tune lost the trial.
        """
        job: TrialJob = trial.config["job"]
        folder = Path(job.folder)
        self._stop_condition.usage.ended(trial.trial_id)
        told = self._search.told(trial.trial_id)
        if told is None:
            return  # cut short by a stop: the session marks it as interrupted
        state = told["state"]
        if error:  # Tune passes no further result to its searcher
            told = outcome(result, state)
        ended = {**told, "number": job.number, "point": job.point}
        self._stop_condition.ended(ended)
        if state == "failed":
            write_log(folder, ended["failure"])
            first = (ended["failure"].splitlines() or [""])[0]
            LOG.warning("%s trial %d failed: %s", self._tally.domain, ended["number"], first)
            ended["log"] = str(folder / FAILURE_FILE)
            ended["command"] = alone(folder)
        self._tally.end(job.key, ended)
        self._pump.end(job.key, folder, ended)
        self._recorded()
        self._display.ended(self._tally, ended)


def write_log(folder: Path, failure: str) -> None:
    """Write the full failure to the file that the message on screen names."""
    with suppress(OSError):  # the disk may be the cause
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE_FILE).write_text(failure + "\n")


def trial_info(
    key: str,
    number: int,
    method: str,
    point: Point,
    seed: int,
    parent: str = "",
    parent_step: int | None = None,
) -> TrialInfo:
    """A trial for the tracker; trials of a search include their method too. ``seed``: the study's,
    for points without their own."""
    given = {"method": method, **point}
    parameters = {name: value for name, value in given.items() if name != "seed"}
    own = int(point.get("seed", seed))
    name = point_name({**(point if method == "gmt" else given), "seed": own})
    return TrialInfo(key, number, parameters, own, parent, parent_step, name)
