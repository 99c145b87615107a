"""Checks that run before any process starts and before anything is recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna

from sweeps.config.old_records import check_schema
from sweeps.config.study_identity import (
    DEFINITION,
    differences,
    split_definition,
    study_definition,
)
from sweeps.config.sweep_config import DomainConfig, SweepConfig, paths_for
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.run_identity import Tree
from sweeps.search.changed_space import recorded_study
from sweeps.search.optuna_storage import open_storage
from sweeps.search.samplers import build_sampler
from sweeps.storage.address import cluster_address
from sweeps.storage.errors import UserError
from sweeps.storage.study_paths import StudyPaths

ADOPTED, STORAGE = "adopted", "storage"


def check_inputs(config: SweepConfig) -> None:
    """Read the model's folder, every training row and every validation item once.

    Test items are read, too, so that no error in them ends a sweep, and are not used.

    Raises:
        ValueError: naming the domain, the file (and the line) and what was expected.
    """
    from sweeps.finetune.benchmarks import load_text
    from sweeps.finetune.model_facts import check_attention, warn_of_rounding

    if config.study.kind == "search":
        build_sampler(config.search, config.seed)
    check_attention(config.model)
    warn_of_rounding(config.model)
    for arm in config.study.arms:
        _check_method(config.method_of({"method": arm, "mask_ratio": 0.0}), config.model)
    if config.evaluation.forgetting is not None:
        load_text(config.evaluation.forgetting)
    for name in config.domains:
        try:
            _check_domain(config, name)
        except ValueError as error:
            raise UserError(f"domain '{name}': {error}") from error


def _check_domain(config: SweepConfig, name: str) -> None:
    from sweeps.finetune.benchmarks import (
        build_benchmarks,
        check_prompt_formats,
        check_test_items,
        check_test_source,
        load_items,
    )
    from sweeps.finetune.example_selection import by_source, read_examples
    from sweeps.finetune.memory_check import check_memory
    from sweeps.finetune.model_facts import check_context
    from sweeps.finetune.optimizers import check_optimizer

    domain = config.domains[name]
    device, workers = training_device(config), config.resources.workers
    neighbours = 1 if cluster_address() else None
    for run in different_runs(config, name):
        _check_method(run.method, run.model)
        check_optimizer(run.optimizer)
        check_context(config.model, run.data.max_length)
        if device is not None:
            check_memory(run, workers, device, neighbours)
    tokenizer = _chat_tokenizer(config.model, domain)
    by_source(domain.data, lambda part: read_examples(part, domain.benchmarks, tokenizer))
    check_prompt_formats(domain.benchmarks, tokenizer)
    benchmarks = build_benchmarks(domain.benchmarks)
    for benchmark, built in zip(domain.benchmarks, benchmarks, strict=True):
        load_items(benchmark, built, "validation")
        check_test_source(benchmark, built)
        check_test_items(benchmark, built)


def different_runs(config: SweepConfig, domain: str) -> list[FinetuneConfig]:
    """Runs of the domain that together have every memory need of its space."""
    workers = config.resources.workers
    needs = {
        (run.optimizer, run.data.max_length, run.forward_batch(workers), run.method): run
        for run in config.checked_trials(domain)
    }
    return [*needs.values()]


def _chat_tokenizer(model: ModelConfig, domain: DomainConfig) -> Any:
    """The tokenizer, if rows or benchmarks use its chat template, which may reject them."""
    templates = [part.template for part in domain.data.parts().values()]
    if "chat" not in (*templates, *(each.prompt_format for each in domain.benchmarks)):
        return None
    from sweeps.finetune.model import load_tokenizer

    return load_tokenizer(model)


def _check_method(method: MethodConfig, model: ModelConfig) -> None:
    if method.lora is not None:
        from sweeps.finetune.adapter import check_method  # imports torch

        check_method(method, model)


def training_device(config: SweepConfig) -> str | None:
    """The device type of trials; None if they need a GPU that only other nodes have."""
    if not config.resources.gpus_per_worker:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else None


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Create ``folder`` and write to it; afterwards, remove created folders that are empty.

    Neither `validate` nor an error found later may leave a folder behind.

    Raises:
        UserError: the folder cannot be written.
    """
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        _remove_empty(created)
        raise UserError(
            f"storage {folder}: cannot be written ({error.strerror}); use a folder that you can "
            "write to, for example storage=runs"
        ) from None
    try:
        yield
    finally:
        _remove_empty(created)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, until one is not empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def check_own_study(study: optuna.Study, config: SweepConfig) -> None:
    """Refuse a study of the same name with trials in another storage. Many sweeps may share one
    database server.

    Raises:
        UserError: names the other storage.
    """
    before = study.user_attrs.get(STORAGE, config.storage)
    if config.database is not None and before != config.storage:
        raise UserError(
            f"database {config.database}: already has a sweep named '{config.name}' with trials "
            f"in {before}; use another name, for example name={config.name}2, or that storage"
        )


def check_same_study(
    study: optuna.Study, config: SweepConfig, domain: str, *, adopt: bool = False
) -> None:
    """Refuse to mix trials whose scores mean different things, unless the user allows it.

    The space and the constraints may change: see `sweeps.search.changed_space`. ``adopt``: allow
    it if Optuna can store both in one study.

    Raises:
        UserError: names each difference and the ways to continue.
    """
    now = study_definition(config, domain)
    recorded = study.user_attrs.get(DEFINITION, now)
    before, now = split_definition(recorded)[0], split_definition(now)[0]
    if before == now:
        return
    check_schema(recorded, paths_for(config).folder)
    if adopt:
        _check_objectives(recorded, config, domain)
        return
    changed = "; ".join(differences(before, now))
    raise UserError(
        f"a study named '{config.name}' with a different definition already exists in "
        f"{config.storage}: {changed}. Use another name, for example name={config.name}2; or "
        "restore the first definition to continue the study; or pass `--adopt` to `run` to mix "
        "trials of both definitions in one study"
    )


def _check_objectives(recorded: Tree, config: SweepConfig, domain: str) -> None:
    """Optuna cannot change a study's objectives."""
    before = recorded.get("search", {}).get("objectives", ["score"])
    if before != list(config.objectives()):
        raise UserError(
            f"domain '{domain}': one study cannot hold trials of both definitions: "
            f"search.objectives (was {before}). Use another name, for example name={config.name}2"
        )


def define(study: optuna.Study, config: SweepConfig, domain: str) -> None:
    """Record the study's definition; an earlier, different one stays on record."""
    now = study_definition(config, domain)
    before = study.user_attrs.get(DEFINITION, now)
    if before != now:
        study.set_user_attr(ADOPTED, [*study.user_attrs.get(ADOPTED, []), before])
    study.set_user_attr(DEFINITION, now)
    study.set_user_attr(STORAGE, config.storage)


def check_recorded(place: StudyPaths, config: SweepConfig, *, adopt: bool = False) -> None:
    """Compare every domain with its recorded study, if any, before any study runs.

    ``adopt``: as in `check_same_study`.

    Raises:
        UserError: as in the two checks above, or the database does not respond.
    """
    if place.database is None and not place.optuna_file().exists():
        return
    storage = open_storage(place)
    for domain in config.domains:
        if (study := recorded_study(storage, f"{config.name}/{domain}")) is not None:
            check_own_study(study, config)
            check_same_study(study, config, domain, adopt=adopt)
