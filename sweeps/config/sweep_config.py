"""The schema of a sweep's YAML file, with validation across its sections."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sweeps.config.budget import BudgetConfig, FailuresConfig
from sweeps.config.hooks import HooksConfig
from sweeps.config.path_types import (
    check_database,
    resolve_benchmark,
    resolve_checks,
    resolve_data,
    resolve_model,
)
from sweeps.config.resources import Resources
from sweeps.config.search_config import Objective, SearchConfig, bounded
from sweeps.config.search_space import (
    MASKING,
    Point,
    SpaceConfig,
    plain_point,
    shortfall,
    trials_left,
)
from sweeps.config.study_config import ArmConfig, MaskRatios, NuisanceConfig, StudyConfig
from sweeps.config.trial_keys import placed
from sweeps.config.validation_errors import explain
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.finetune_config import (
    BenchmarkConfig,
    ChecksConfig,
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    SharedSettings,
    asked_as_trained,
)
from sweeps.finetune.method_options import HalfConfig, MethodConfig, Scope, check_scope
from sweeps.finetune.strict_model import LocalPath, StrictModel
from sweeps.storage.address import Address, cluster_address, folder_of, is_address
from sweeps.storage.errors import UserError
from sweeps.storage.study_paths import StudyPaths


class TrackingConfig(StrictModel):
    """Where MLflow stores the runs."""

    uri: str | None = None
    """The address of an MLflow server or database; null: `MLFLOW_TRACKING_URI`, else an SQLite
    file in ``storage``. A single run without it is not sent to MLflow."""


class TrainingConfig(SharedSettings):
    """The settings shared by all trials, and how the masking methods mask."""

    method: Literal["gmt", "random"] = "gmt"
    """The masking method of all trials: keep the largest gradient elements, or random ones."""
    scope: Scope = "tensor"
    """`gmt` ranks elements within each tensor, or over all tensors."""

    @model_validator(mode="after")
    def _scope_is_of_gmt(self) -> Self:
        check_scope(self.method, self.scope)
        return self


class KeepConfig(StrictModel):
    """The trials whose weights stay on disk."""

    models: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """How many of the best trials keep their models, besides the best SFT trial."""


class DomainConfig(StrictModel):
    """Training data and benchmarks of a domain."""

    data: DataConfig
    """The training rows: of one source, or of several. Keys beside `sources` are then the defaults
    of all of them."""
    benchmarks: Annotated[tuple[BenchmarkConfig, ...], Field(min_length=1)]
    """The benchmarks; the score is the mean of their primary metrics."""
    examples: Annotated[int, Field(ge=1)] | None = None
    """Overrides `training.examples`."""
    space: SpaceConfig | None = None
    """Overrides the sweep's `space`."""
    nuisance: NuisanceConfig | None = None
    """Overrides `study.nuisance`."""
    mask_ratio: MaskRatios | None = None
    """Overrides `study.mask_ratio`."""

    @model_validator(mode="after")
    def _asked_as_trained(self) -> Self:
        object.__setattr__(self, "benchmarks", asked_as_trained(self.benchmarks, self.data))
        return self


class SweepConfig(StrictModel):
    """One sweep: one study per domain, over one model."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """The sweep's folder is STORAGE/NAME."""
    seed: int = 0
    """The seed of the sampler and of every trial."""
    pin_code: bool = False
    """Treat another version of the code as another study."""
    storage: LocalPath = "runs"
    """A folder or an object store's address (s3://, gs://) for records, trials and reports."""
    database: str | None = None
    """The address of a PostgreSQL database for Optuna's records; null: SQLite."""
    data_root: LocalPath | None = None
    """The folder where relative paths of model, data and benchmarks start; null: the current one.
    """
    tracking: TrackingConfig = TrackingConfig()
    """Where MLflow stores the runs."""
    model: ModelConfig
    """The base model, and how it is loaded."""
    resources: Resources = Resources()
    """The resources of a trial, and how many trials run in parallel."""
    training: TrainingConfig
    """The settings shared by all trials, and how the masking methods mask."""
    evaluation: ChecksConfig = ChecksConfig()
    """When the model is scored during training, on validation items only."""
    study: StudyConfig = StudyConfig()
    """What `run` runs: a search, or a fixed design, without sampler and early stopping."""
    search: SearchConfig = SearchConfig()
    """How the space is searched."""
    budget: BudgetConfig = BudgetConfig()
    """Limits of time, GPU-hours and money. When one is reached, running trials are stopped and
    the report is written; with a larger budget, `run` continues them from their checkpoints. Test
    items are not counted. All studies of a `paper` share one budget."""
    failures: FailuresConfig = FailuresConfig()
    """How the sweep reacts to failing trials."""
    keep: KeepConfig = KeepConfig()
    """The trials whose weights stay on disk."""
    space: SpaceConfig | None = None
    """The search space: any setting of a run by its key, such as `batch.mini_batch`; a domain may
    have its own."""
    domains: Annotated[dict[str, DomainConfig], Field(min_length=1)]
    """Training data and benchmarks by name: each domain is one study."""
    hooks: HooksConfig = HooksConfig()
    """Commands or webhooks that are called when the sweep ends or a trial fails."""

    @field_validator("storage")
    @classmethod
    def _storage_has_an_address(cls, storage: str) -> str:
        if not is_address(storage):
            return storage
        return str(Address.parse(storage))

    @field_validator("database")
    @classmethod
    def _database_has_an_address(cls, database: str | None) -> str | None:
        return None if database is None else check_database(database)

    @field_validator("domains")
    @classmethod
    def _domain_names(cls, domains: dict[str, DomainConfig]) -> dict[str, DomainConfig]:
        for name in domains:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"domain {name!r}: expected letters, digits, '-' and '_'")
        return domains

    @model_validator(mode="after")
    def _budget_can_be_spent(self) -> Self:
        of_gpus = self.budget.gpu_hours or self.budget.money
        if of_gpus and not self.resources.gpus_per_worker:
            raise ValueError(
                "budget: gpu_hours and money count GPU time, but resources.gpus_per_worker is 0; "
                "expected budget.wall_hours, or trials with GPUs"
            )
        return self

    @model_validator(mode="after")
    def _trials_can_be_built(self) -> Self:
        measured = {*self.search.objectives, *map(bounded, self.search.constraints)}
        if "kept_fraction" in measured and not self.training.statistics_every:
            raise ValueError(
                "search: kept_fraction is not measured with training.statistics_every 0: "
                "expected 1 or more"
            )
        if "forgetting" in measured and self.evaluation.forgetting is None:
            raise ValueError(
                "search: forgetting is not measured: expected evaluation.forgetting: FILE, a text "
                "that the model should still predict well"
            )
        for name, domain in self.domains.items():
            space = self.space_of(name)
            methods = (self.training.method,) if space.method is None else space.method.values()
            if space.mask_ratio is None and set(methods) & set(MASKING):
                raise ValueError(f"domain '{name}': space.mask_ratio is missing")
            try:
                points = space.checked_points()
                if self.study.kind == "search":
                    self.search.check_space(space)
            except ValueError as error:
                raise ValueError(f"domain '{name}': {error}") from None
            nuisance = domain.nuisance or self.study.nuisance
            fixed: list[tuple[int, float]] = []
            if nuisance is not None:
                own = self.study.arm_combinations(nuisance)
                fixed = [*nuisance.combinations(), *chain(*own.values())]
            points += [plain_point(interval) for interval in {interval for interval, _ in fixed}]
            for point in points:
                self.check_trial(name, point)
        return self

    def check_trial(self, domain: str, point: Point) -> None:
        """Raise a ValueError, with the domain's name, unless the point can be trained."""
        place = f"domain '{domain}'"
        try:
            self.trial(domain, point).steps(self.resources.workers)
        except ValidationError as error:
            raise explain(error, FinetuneConfig, place) from None
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None

    def space_of(self, domain: str) -> SpaceConfig:
        """The domain's own search space, or the sweep's; in a fixed design without one, the points
        of its nuisance parameters."""
        parts = self.domains[domain]
        if (found := parts.space or self.space) is not None:
            return found
        nuisance = parts.nuisance or self.study.nuisance
        if self.study.kind == "search" or nuisance is None:
            raise ValueError(
                f"domain '{domain}': space is missing: a search requires it, a fixed design "
                "requires it or study.nuisance"
            )
        fixed = {name: list(each.choices) for name, each in nuisance}
        return SpaceConfig.model_validate({"mask_ratio": list(self.study.ratios), **fixed})

    def search_trials(self, domain: str) -> int:
        """The number of trials in a domain's search, without replicates.

        A grid runs all its points, and no search runs more trials than the space has points.
        """
        if self.search.sampler == "grid":
            return len(self.space_of(domain).grid())
        return trials_left(self.search.trials, self.space_of(domain), [])

    def shortfall(self, domain: str) -> str:
        """A sentence if a domain's space has fewer points than trials requested; else empty."""
        if self.study.kind != "search" or self.search.sampler == "grid":
            return ""
        return shortfall(self.search.trials, self.space_of(domain))

    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of a study's sampler; a fixed design has only the score."""
        return self.search.objectives if self.study.kind == "search" else ("score",)

    def checked_trials(self, domain: str) -> list[FinetuneConfig]:
        """Trials of a search that decide whether all can be run; see `checked_points`."""
        return [self.trial(domain, point) for point in self.space_of(domain).checked_points()]

    def trial(self, domain: str, point: Point) -> FinetuneConfig:
        """The run for a point of a domain's space. A ratio of 0 is plain SFT."""
        parts = self.domains[domain]
        tree = {name: getattr(self.training, name) for name in SharedSettings.model_fields}
        tree |= {
            "examples": parts.examples or self.training.examples,
            "model": self.model,
            "data": _share(parts.data, float(point.get("train_fraction", 1.0))),
            "method": self.method_of(point),
            "evaluation": EvaluationConfig(benchmarks=parts.benchmarks, **dict(self.evaluation)),
            "seed": int(point.get("seed", self.seed)),
        }
        beside = {"method", "mask_ratio", "seed", "stage", "train_fraction"}
        if tree["method"].name == "sft":
            beside.add("method.scope")  # a point with mask ratio 0 may have it
        for key, value in point.items():
            if key not in beside:
                tree = placed(tree, key, value)
        return FinetuneConfig.model_validate(tree)

    def method_of(self, point: Point) -> MethodConfig:
        """The method of a point; drops and the base model derive from plain SFT runs."""
        name = str(point.get("method", self.training.method))
        ratio = float(point.get("mask_ratio", 0.0))
        if name == "hft":
            half = self.study.arms.get("hft", ArmConfig()).hft
            return MethodConfig(name="hft", hft=half or HalfConfig())
        if name == "lora":
            return MethodConfig(name="lora", lora=self.study.arms.get("lora", ArmConfig()).lora)
        if name not in MASKING or not ratio:
            return MethodConfig(name="sft")
        scope = self.training.scope if name == "gmt" else "tensor"
        return MethodConfig.model_validate({"name": name, "mask_ratio": ratio, "scope": scope})


def _share(data: DataConfig, fraction: float) -> DataConfig:
    """The data reduced to a share of the domain's training rows."""
    if fraction == 1.0:
        return data
    return data.model_copy(update={"train_fraction": data.train_fraction * fraction})


def resolve_paths(config: SweepConfig) -> SweepConfig:
    """The same sweep with absolute paths and with names of the embedded world resolved.

    The driver does this once, so that trials on other nodes or in other working directories read
    the same files. Names without a local file are left for the hub.

    Raises:
        UserError: the embedded world does not have this name.
    """

    root = Path(config.data_root or ".").expanduser()

    def domain(parts: DomainConfig) -> DomainConfig:
        return parts.model_copy(
            update={
                "data": resolve_data(parts.data, root),
                "benchmarks": tuple(resolve_benchmark(b, root) for b in parts.benchmarks),
            }
        )

    storage = config.storage if is_address(config.storage) else str(folder_of(config.storage))
    try:
        return config.model_copy(
            update={
                "storage": storage,
                "model": resolve_model(config.model, root),
                "evaluation": resolve_checks(config.evaluation, root),
                "domains": {name: domain(parts) for name, parts in config.domains.items()},
            }
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def share_generated_files(config: SweepConfig) -> None:
    """Keep the embedded world's files in the storage if the nodes of a cluster must see them."""
    if cluster_address():
        os.environ.setdefault("GMT_SWEEP_CACHE", str(folder_of(config.storage) / "cache"))


def paths_for(config: SweepConfig) -> StudyPaths:
    """The paths of a sweep within its storage."""
    storage = config.storage
    address = Address.parse(storage) if is_address(storage) else None
    return StudyPaths(folder_of(storage) / config.name, address, config.database)
