"""The resources of a trial, and how many trials run in parallel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from sweeps.finetune.strict_model import StrictModel


class Resources(StrictModel):
    """The resources of one trial, and how many trials run in parallel."""

    workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Data-parallel workers of a trial."""
    cpus_per_worker: Annotated[float, Field(gt=0, le=10_000)] | Literal["auto"] = 1.0
    """CPUs of a worker; `auto`: the share of a node's CPUs that goes with the worker's GPUs, at
    least 1."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """GPUs of a worker, at most 1; a fraction only with one worker per trial."""
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 1
    """The maximum number of trials at the same time."""
    trial_group: Literal["auto", "warm", "isolated"] = "auto"
    """`warm`: trials reuse worker groups, since a new one takes seconds to start; `isolated`: each
    trial has its own processes; `auto`: a group is replaced after a trial of five minutes or more.
    """
    domains: Literal["in_turn", "side_by_side"] = "in_turn"
    """The studies run one after another, or share the same slots."""

    @field_validator("gpus_per_worker")
    @classmethod
    def _one_gpu_at_most(cls, gpus: float) -> float:
        if gpus > 1:
            raise ValueError(
                f"expected at most 1, because a worker uses one GPU, got {gpus:g}; for more GPUs "
                "per trial, raise resources.workers"
            )
        return gpus

    @model_validator(mode="after")
    def _workers_share_no_gpu(self) -> Self:
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g}: expected 1 with {self.workers} "
                "workers, because NCCL cannot connect two workers on one GPU"
            )
        return self

    def cpus(self, nodes: Sequence[Mapping[str, float]] = ()) -> float:
        """The CPUs of a worker; ``auto`` looks for the least share on these nodes, given by their
        resources in Ray, and is 1 without any that has GPUs."""
        if self.cpus_per_worker != "auto":
            return self.cpus_per_worker
        shares = [node.get("CPU", 0) / node["GPU"] for node in nodes if node.get("GPU")]
        return max(1.0, float(int(min(shares, default=0) * self.gpus_per_worker)))
