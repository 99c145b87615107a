"""Plan a sweep before it starts: its trials, time and cost."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import final

from sweeps.config.search_space import Point, plain_point
from sweeps.config.study_config import Kind
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.trial_keys import is_of_batch
from sweeps.execution.disk_need import (
    WRITE_RATE,
    CheckpointCost,
    DiskNeed,
    checkpoint_cost,
    disk_need,
)
from sweeps.execution.preflight import check_recorded, different_runs, training_device
from sweeps.execution.trial_time import Pace, shortest_run
from sweeps.finetune.disk_check import free_disk
from sweeps.finetune.memory_check import MemoryNeed, worker_need
from sweeps.report.trial_row import TrialRow
from sweeps.search.trial_counts import Workload, stages, workload
from sweeps.storage.address import cluster_address, is_address
from sweeps.storage.errors import UserError

PaceOf = Callable[[str, tuple[TrialRow, ...]], Pace | None]
"""Maps a domain and its recorded trials to the time that one trial takes."""


@final
@dataclass(frozen=True)
class Machine:
    """Where trials run, a cluster or one machine, and how many at once (`concurrency`).

    `gpu_bytes`: the memory of one GPU; None if not given.
    """

    text: str
    concurrency: int
    gpu_bytes: int | None = None


@final
@dataclass(frozen=True)
class DomainPlan:
    """One domain's study. `parameters`: its space, or what a fixed design varies; `updates`:
    updates per trial and examples in each, by the sizes that vary. Hours are summed over trials,
    parallel or not. `shared`: how many of those left another study of the paper trains.
    `requested`: queued points and forks that have not started. `shortfall`: a sentence if the
    space has fewer points than requested trials, and `changed` if it is another one than that of
    the recorded trials; else empty."""

    domain: str
    total: int
    done: int
    left: int
    shortfall: str
    parameters: dict[str, str]
    examples: int
    updates: dict[str, tuple[int, int]]
    pace: Pace | None
    training_hours: float | None
    evaluation_hours: float | None
    shared: int = 0
    changed: str = ""
    checkpoints: CheckpointCost | None = None
    requested: int = 0

    def to_run(self) -> int:
        """The trials that this study itself runs."""
        return self.left - self.shared


@final
@dataclass(frozen=True)
class SweepPlan:
    """A sweep. Device-hours are hours of `device`; unknown values are None.

    `hours` is wall time at the machine's concurrency, `start_seconds` among it. Early stopping
    reduces all of these; the final test items are not included. `memory` is the need of each of
    `workers` workers. `refused`: why `run` would not continue a recorded study; else empty.
    """

    name: str
    kind: str
    machine: Machine
    device: str
    devices_per_trial: float
    domains: tuple[DomainPlan, ...]
    training_device_hours: float | None
    evaluation_device_hours: float | None
    hours: float | None
    price: float | None
    money: float | None
    workers: int
    memory: MemoryNeed | None
    disk: DiskNeed | None
    disk_free: int | None
    stops_early: bool
    start_seconds: float = 0.0
    refused: str = ""


@final
@dataclass(frozen=True)
class PaperPlan:
    """All studies of a paper in order, and their sums; unknown ones are None.

    ``left`` trials are without result, of which ``shared`` are trained once for two studies.
    ``assumed``: the studies that take values from one that is not done, so that their numbers of
    trials may still change. ``refused``: as in `SweepPlan`.
    """

    name: str
    studies: tuple[SweepPlan, ...]
    total: int
    done: int
    left: int
    shared: int
    hours: float | None
    money: float | None
    assumed: tuple[Kind, ...] = ()
    refused: str = ""


def plan(
    config: SweepConfig,
    rows: dict[str, tuple[TrialRow, ...]],
    machine: Machine,
    pace_of: PaceOf,
    price: float | None,
    shared: Mapping[str, int] = MappingProxyType({}),
    write_rate: float = WRITE_RATE,
    requested: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> SweepPlan:
    """The plan of a sweep whose paths are resolved. ``rows``: recorded trials by domain;
    ``price``: per device-hour; ``shared``: trials by domain that another study trains;
    ``write_rate``: of the disk of checkpoints, in megabytes per second; ``requested``: of each
    domain, see `workload`."""
    paces = {name: pace_of(name, rows[name]) for name in config.domains}
    domains = tuple(
        replace(
            _domain(config, name, rows[name], pace, shared.get(name, 0), requested.get(name, {})),
            checkpoints=_checkpoints(config, name, pace, write_rate),
        )
        for name, pace in paces.items()
    )
    start = max((d.pace.start for d in domains if d.pace and d.to_run()), default=0.0)
    resources = config.resources
    uses_gpus = resources.gpus_per_worker > 0
    per_worker = resources.gpus_per_worker if uses_gpus else resources.cpus()
    devices = resources.workers * per_worker
    training = _total([domain.training_hours for domain in domains])
    evaluation = _total([domain.evaluation_hours for domain in domains])
    both = None if training is None else training + (evaluation or 0.0)
    together = resources.domains == "side_by_side"
    return SweepPlan(
        name=config.name,
        kind=config.study.kind,
        machine=machine,
        device="GPU" if uses_gpus else "CPU",
        devices_per_trial=devices,
        domains=domains,
        training_device_hours=_times(training, devices),
        evaluation_device_hours=_times(evaluation, devices),
        hours=None
        if both is None
        else _wall_hours(domains, machine.concurrency, together) + start / 3600,
        price=price,
        money=None if price is None else _times(both, devices * price),
        workers=resources.workers,
        memory=_memory(config, machine.gpu_bytes),
        disk=disk_need(config, machine.concurrency, rows),
        disk_free=None if is_address(config.storage) else free_disk(paths_for(config).folder),
        stops_early=config.study.kind == "search" and config.search.scheduler.name != "none",
        start_seconds=start,
        refused=_refusal(config),
    )


def _refusal(config: SweepConfig) -> str:
    """Why `run` would not continue the recorded study; else empty."""
    try:
        check_recorded(paths_for(config), config)
    except UserError as error:
        return str(error)
    return ""


def _memory(config: SweepConfig, gpu_bytes: int | None) -> MemoryNeed | None:
    """What a worker needs at most; GPUs of other nodes are assumed where this one has none.

    Raises:
        UserError: it is more than the GPU has.
    """
    device, workers = training_device(config) or "cuda", config.resources.workers
    runs = [run for domain in config.domains for run in different_runs(config, domain)]
    needs = [worker_need(run, workers, device, gpu_bytes) for run in runs]
    most = max((need for need in needs if need), key=lambda need: need.total, default=None)
    if most is not None and device != "cpu" and most.total > (gpu_bytes or math.inf):
        raise UserError(
            f"--gpu-memory: each of {workers} workers needs at least {most} on its GPU; use "
            "larger GPUs, more workers with training.parallel: fsdp, or a smaller mini-batch"
        )
    return most


def _checkpoints(
    config: SweepConfig, domain: str, pace: Pace | None, rate: float
) -> CheckpointCost | None:
    """Those of the trial with the most updates."""
    run, workers = shortest_run(config, domain), config.resources.workers
    training = None if pace is None else pace.training
    return checkpoint_cost(run, workers, training_device(config) or "cuda", training, rate)


def _wall_hours(domains: Sequence[DomainPlan], concurrency: int, together: bool) -> float:
    """Hours from the first trial to the last. At most as many trials run at once as are left in
    a study, or in all studies if these run in parallel."""
    hours = [(d.training_hours or 0.0) + (d.evaluation_hours or 0.0) for d in domains]
    left = [d.to_run() for d in domains]
    if together:
        return sum(hours) / max(1, min(concurrency, sum(left)))
    pairs = zip(hours, left, strict=True)
    return sum(each / max(1, min(concurrency, count)) for each, count in pairs)


def this_machine(config: SweepConfig) -> Machine:
    """The machine that runs this process, as the configuration would use it.

    Raises:
        UserError: not even one trial fits.
    """
    from sweeps.execution.cluster import local_places

    asked, cores = config.resources, len(os.sched_getaffinity(0))
    places = local_places(asked)
    wanted = places * asked.workers * asked.cpus()
    text = f"this machine, {cores} cores"
    if places < asked.concurrency:
        text += f", enough for {places} of {asked.concurrency} concurrent trials"
    elif wanted > cores:
        text += f", but {wanted:g} are requested: trials will slow each other down"
    return Machine(text, places)


def joined_cluster(config: SweepConfig) -> Machine:
    """The cluster at ``RAY_ADDRESS``, as it is now.

    Raises:
        UserError: it cannot be reached, or not even one trial fits.
    """
    from sweeps.execution.cluster import check_room, ray_session
    from sweeps.execution.remote_job import Stored

    with ray_session(config.resources) as concurrency:
        import ray

        stored = Stored.of(config)
        check_room(config.resources, one_node=stored is not None and stored.one_node)
        there = ray.cluster_resources()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    text = (
        f"the cluster at {cluster_address()}, {nodes} nodes, "
        f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
    )
    return Machine(text, concurrency)


def _domain(
    config: SweepConfig,
    domain: str,
    rows: tuple[TrialRow, ...],
    pace: Pace | None,
    shared: int,
    requested: Mapping[str, int],
) -> DomainPlan:
    work = workload(config, domain, rows, requested)
    trained, scored = work.to_train - shared, work.left - shared
    training = None if pace is None else pace.setup + pace.training
    return DomainPlan(
        domain=domain,
        total=work.total,
        done=work.done,
        left=work.left,
        shortfall=config.shortfall(domain),
        parameters=_parameters(config, domain, work),
        examples=config.domains[domain].examples or config.training.examples,
        updates=_updates(config, domain),
        pace=pace,
        training_hours=_times(training, trained / 3600),
        evaluation_hours=None if pace is None else _times(pace.evaluation, scored / 3600),
        shared=shared,
        requested=sum(requested.values()),
    )


def _parameters(config: SweepConfig, domain: str, work: Workload) -> dict[str, str]:
    if config.study.kind == "search":
        return {name: str(p) for name, p in config.space_of(domain).parameters().items()}
    if config.study.kind == "efficiency":
        return {"rounds": str(config.study.rounds)}
    found: dict[str, str] = {}
    points = stages(config, domain)
    for stage, count in Counter(point.stage for point in points).items():
        found[f"{stage} trials"] = str(count)
    arms = dict.fromkeys((p.method, p.mask_ratio, p.train_fraction) for p in points)
    found["arms"] = str(len(arms))
    found["mask_ratio"] = ", ".join(f"{r:g}" for r in sorted({p.mask_ratio for p in points}))
    found["methods"] = ", ".join(dict.fromkeys(p.method for p in points))
    return found


def _updates(config: SweepConfig, domain: str) -> dict[str, tuple[int, int]]:
    found, workers = dict[str, tuple[int, int]](), config.resources.workers
    for point in _sizes(config, domain):
        run = config.trial(domain, point)
        sizes = {key: value for key, value in point.items() if is_of_batch(key)}
        text = ", ".join(f"{key} {value}" for key, value in sizes.items())
        text = text.replace("accumulation_interval", "accumulation interval")
        found[text] = run.steps(workers), run.effective_batch(workers)
    return found


def _sizes(config: SweepConfig, domain: str) -> list[Point]:
    if config.study.kind == "search":
        space = config.space_of(domain)
        sizes = {k: sorted(p.grid()) for k, p in space.parameters().items() if is_of_batch(k)}
        return space.combinations(sizes)
    intervals = {point.accumulation_interval for point in stages(config, domain)}
    return [plain_point(interval) for interval in sorted(intervals)]


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _times(amount: float | None, factor: float) -> float | None:
    return None if amount is None else amount * factor
