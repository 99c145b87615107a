"""A single fine-tuning run without Ray and Tune, in one process or under torchrun."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, final

import yaml

from sweeps.config.load import load_tree
from sweeps.config.path_types import resolve_run
from sweeps.config.sweep_config import TrackingConfig
from sweeps.config.validation_errors import checked
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.reporter import RunResult
from sweeps.finetune.strict_model import LocalPath
from sweeps.storage.errors import UserError


class SingleRun(FinetuneConfig):
    """The configuration of a single run: that of a trial, and where it reads and writes."""

    folder: LocalPath = "runs/finetune"
    """For metrics, checkpoints, the result and the model."""
    data_root: LocalPath | None = None
    """The folder where relative paths of model, data and benchmarks start; null: the current one.
    """
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow stores the run."""

    def run_config(self) -> FinetuneConfig:
        """The run's configuration, with every path made absolute."""
        shared = {name: getattr(self, name) for name in FinetuneConfig.model_fields}
        return resolve_run(FinetuneConfig(**shared), Path(self.data_root or ".").expanduser())

    def place(self) -> Path:
        """The absolute path of the folder."""
        return Path(self.folder).expanduser().resolve()


def load_single_run(path: str | Path, overrides: Sequence[str] = ()) -> SingleRun:
    """Read, override and check the configuration of one run.

    Raises:
        UserError: names the key, what was expected and the nearest valid key.
    """
    return checked(SingleRun, str(path), load_tree(path, overrides))


def run_single(config: SingleRun) -> RunResult:
    """Run or continue one run, on all processes started by torchrun or on this one alone.

    Raises:
        ValueError: the user's input is wrong; the message says what.
    """
    _create(config.place())
    with process_group():
        from sweeps.finetune.loop import finetune
        from sweeps.finetune.process_group import Group
        from sweeps.finetune.reporter import FolderReporter, SeveralReporters
        from sweeps.finetune.run_progress import ProgressReporter

        group, run, place = Group.current(), config.run_config(), config.place()
        steps = run.steps(group.size)
        if not group.leads:
            return finetune(run, place, SeveralReporters())
        with closing(ProgressReporter(steps)) as progress, _tracked(config, run, place) as tracked:
            files = FolderReporter(place)
            result = finetune(run, place, SeveralReporters(files, progress, *tracked))
            for reporter in tracked:
                reporter.end(result)
            return result


def _create(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"folder {folder}: cannot be written ({error.strerror}); use a folder that you can "
            "write to, for example folder=runs/finetune"
        ) from None


@contextmanager
def process_group() -> Iterator[None]:
    """The torch.distributed group of torchrun's processes; none for a single process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # gloo for CPU tensors, NCCL for GPU tensors.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _tracked(config: SingleRun, run: FinetuneConfig, place: Path) -> Iterator[list[_MlflowRun]]:
    if config.tracking.uri is None:
        yield []
        return
    with closing(_MlflowRun(config.tracking.uri, run, place)) as tracked:
        yield [tracked]


@final
class _MlflowRun:
    """Sends a single run to MLflow through an event log, like trials: an outage loses nothing."""

    def __init__(self, uri: str, run: FinetuneConfig, place: Path) -> None:
        from sweeps.config.study_identity import git_commit
        from sweeps.execution.progress import point_name
        from sweeps.execution.trial_worker import TrialReporter
        from sweeps.finetune.run_identity import digest
        from sweeps.storage.trial_files import EVENTS_FILE
        from sweeps.tracking.event_log import Outbox
        from sweeps.tracking.mlflow_tracker import MlflowTracker
        from sweeps.tracking.tracker import StudyInfo, TrialInfo
        from sweeps.tracking.tracker_pump import TrackerPump

        tree = run.model_dump(mode="json")
        self._key = f"000-{digest(tree)}"
        self._place, self._started = place, time.monotonic()
        tracker = MlflowTracker(uri)
        tracker.check()
        tracker.begin_study(
            StudyInfo(
                key=f"{place.name}/{self._key}",
                name=place.name,
                domain="finetune",
                config_yaml=yaml.safe_dump(tree, sort_keys=False),
                git_commit=git_commit(),
                note="One fine-tuning run.",
                parameters={"model": run.model.path, "trials": "1"},
            )
        )
        point = {
            "mask_ratio": run.method.mask_ratio,
            "accumulation_interval": run.accumulation_interval,
            "learning_rate": run.learning_rate,
        }
        self._pump = TrackerPump(tracker, print)
        name = point_name({**point, "seed": run.seed})
        self._pump.begin(TrialInfo(self._key, 0, point, run.seed, name=name), place)
        self._outbox = Outbox(place / EVENTS_FILE)
        self._reporter = TrialReporter(self._outbox, lambda _: True)
        self._ended = False
        self.step, self.check = self._reporter.step, self._reporter.check

    def end(self, result: RunResult) -> None:
        """Record how the run ended."""
        ended: dict[str, Any] = {
            "state": "finished" if result.state == "finished" else "failed",
            "seconds": time.monotonic() - self._started,
            "score": result.score,
            "metrics": result.metrics,
            "failure": result.reason,
        }
        self._pump.end(self._key, self._place, ended)
        self._pump.finish_study(ended["state"], [], {})
        self._ended = True

    def close(self) -> None:
        """Send the remaining events."""
        if not self._ended:
            self._pump.interrupt(self._key)
            self._pump.finish_study("interrupted", [], {})
        self._pump.close(timeout=60)
        self._outbox.close()
