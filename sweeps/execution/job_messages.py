"""What travels between the driver, the job queue and the workers: jobs, orders and results.

The queue's actor imports this module, so it needs neither Ray nor torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, final

from sweeps.config.failure_kinds import FailureKind
from sweeps.config.search_space import Point
from sweeps.finetune.finetune_config import BenchmarkConfig, FinetuneConfig, ModelConfig
from sweeps.finetune.method_options import DropConfig
from sweeps.finetune.reporter import Check, RunResult

STORE = "store"
"""Where the memory of a worker has the object store that its trials are uploaded to, if any."""


@dataclass(frozen=True)
class Job(ABC):
    """Work for one worker group. Jobs with the same ``key`` write to the same folder."""

    key: str

    @abstractmethod
    def models(self) -> tuple[str, ...]:
        """The folders of the models that the job reads."""

    @abstractmethod
    def moved(self, move: Callable[[str], str]) -> Self:
        """The same job, with each folder replaced by ``move`` of it."""


@final
@dataclass(frozen=True)
class TrialJob(Job):
    """One trial.

    ``run``: what to train, or with ``is_derived`` the model to score untrained: the base model, or
    the one that ``drop`` makes. ``parent``: the key of the trial that ``drop`` starts from, or
    that a fork continues from ``parent_step``.
    """

    folder: str
    number: int
    point: Point
    method: str
    run: FinetuneConfig
    workers: int = 1
    is_derived: bool = False
    drop: DropConfig | None = None
    parent: str = ""
    parent_step: int | None = None

    def models(self) -> tuple[str, ...]:
        """The model whose update is dropped, or the checkpoint that a fork starts from, if any."""
        read = self.run.start_from if self.drop is None else self.drop.tuned
        return () if read is None else (read,)

    def moved(self, move: Callable[[str], str]) -> Self:
        """Its own folder and those it reads; the training data is where it was."""
        start = self.run.start_from
        run = self.run.model_copy(update={"start_from": start and move(start)})
        return replace(self, folder=move(self.folder), run=run, drop=_moved_drop(self.drop, move))

    def halved(self) -> Self | None:
        """The same trial with half the micro-batch; None if that is not a whole number."""
        splits = 2 * self.run.micro_splits
        if self.run.micro_batch(self.workers) % splits:
            return None
        return replace(self, run=self.run.model_copy(update={"micro_splits": splits}))


@final
@dataclass(frozen=True)
class ScoringJob(Job):
    """Score ``model``, or what ``drop`` makes of it, on the test items of ``benchmarks``."""

    model: ModelConfig
    drop: DropConfig | None
    benchmarks: tuple[BenchmarkConfig, ...]
    threads: int | None

    def models(self) -> tuple[str, ...]:
        """The scored model and the one whose update is dropped; the base model may be a name."""
        return (self.model.path,) if self.drop is None else (self.model.path, self.drop.tuned)

    def moved(self, move: Callable[[str], str]) -> Self:
        """Both models' folders."""
        model = self.model.model_copy(update={"path": move(self.model.path)})
        return replace(self, model=model, drop=_moved_drop(self.drop, move))


@final
@dataclass(frozen=True)
class MeasuringJob(Job):
    """Measure the time and FLOPs of ``rounds`` updates of each method in ``runs``."""

    runs: Mapping[str, FinetuneConfig]
    rounds: int

    def models(self) -> tuple[str, ...]:
        """None: it trains the base model."""
        return ()

    def moved(self, move: Callable[[str], str]) -> Self:
        """The same job: it writes nothing."""
        return self


def _moved_drop(drop: DropConfig | None, move: Callable[[str], str]) -> DropConfig | None:
    return drop and drop.model_copy(update={"tuned": move(drop.tuned)})


@final
@dataclass(frozen=True)
class Failed:
    """A job failed; the first line of ``failure`` is the cause."""

    kind: FailureKind
    failure: str
    state: Literal["failed"] = "failed"


@final
@dataclass(frozen=True)
class Refused:
    """The user's data or model cannot be scored; ``sentence`` says why."""

    sentence: str


@final
@dataclass(frozen=True)
class Scored:
    """A model's test scores: ``entries`` in total, ``items`` one by one (see `TestScores`)."""

    entries: dict[str, float]
    items: dict[str, list[list[Any]]]


@final
@dataclass(frozen=True)
class Measured:
    """``methods``: the measurement of each (see `measure_updates`), made on ``place``."""

    methods: dict[str, dict[str, Any]]
    place: str


Ending = RunResult | Failed | Refused | Scored | Measured
"""The last result of a job."""


@final
@dataclass(frozen=True)
class Result:
    """A job's next result. ``retries``: why attempts before it were lost, each told once;
    ``seconds``: since workers first had the job, 0 if none had it."""

    value: Check | Ending
    retries: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def is_last(self) -> bool:
        """Whether the job has ended."""
        return not isinstance(self.value, Check)


@final
@dataclass(frozen=True)
class Lost:
    """The job will have no further result: its workers are gone, or another job replaced it."""

    reason: str


@final
@dataclass(frozen=True)
class Run:
    """An order to a group: run this job. Its results carry ``job_id``."""

    job_id: str
    job: Job = field(repr=False)


Order = Run | Literal["wait", "leave"]
"""What a group does next; "wait": ask again."""

Answer = Literal["go", "stop", "wait"]
"""Whether a job continues after a check; "wait": report it again."""
