"""One fine-tuning run from config to result, on one process or on every rank of a group."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import final

from sweeps.finetune import checkpoint
from sweeps.finetune.adapter import check_method
from sweeps.finetune.background_save import Saver
from sweeps.finetune.base_model import base_model, model_key
from sweeps.finetune.benchmarks import check_prompt_formats
from sweeps.finetune.checkpoint import Checkpoint, naming_workers, run_fingerprint
from sweeps.finetune.derived_models import score_derived
from sweeps.finetune.disk_check import check_disk, check_hub_cache
from sweeps.finetune.divergence import DivergedError, check_weights
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory_check import check_memory
from sweeps.finetune.model import (
    add_stop_tokens,
    check_vocabulary,
    computing_dtype,
    save_model,
)
from sweeps.finetune.model_facts import check_context, warn_of_rounding
from sweeps.finetune.optimizers import check_optimizer, check_steps, checkpoint_steps
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache, preserve_global_state, signature
from sweeps.finetune.reporter import Check, Reporter, RunResult, read_result, write_result
from sweeps.finetune.run_costs import TRAINED_SHARE, peak_memory, restart_peak_memory
from sweeps.finetune.run_identity import lasting_identity
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer
from sweeps.finetune.validation import Validation

__all__ = ["Cache", "RunResult", "finetune"]


def finetune(
    config: FinetuneConfig, folder: Path, reporter: Reporter, cache: Cache | None = None
) -> RunResult:
    """Train, check on validation items, and save, in `folder` on storage shared by all ranks.

    Call it on every rank of an initialised torch.distributed group, or alone. It resumes from a
    checkpoint in `folder` bit for bit, and returns the recorded result of a run that has ended;
    both report the last check again. It restores all process state that it changes. Raises a
    ValueError for errors the user can fix; a divergence is a result.
    """
    group = Group.current()
    config.steps(group.size)  # report sizes that do not divide before loading anything
    fingerprint = run_fingerprint(config, group.size)
    folder.mkdir(parents=True, exist_ok=True)
    with naming_workers(config, group.size):
        ended = group.agree(
            lambda: read_result(folder, fingerprint),
            lambda result: result is not None,
            f"whether {folder} holds a result (is it shared storage?)",
        )
    if ended is not None:
        _report_end(ended, reporter)
        return ended
    if config.method.name != "drop":
        with preserve_global_state(group.device(), config.threads):
            return _Run(config, folder, fingerprint, group, cache).go(reporter)
    drop, keep = config.method.drop, config.keep == "model"
    result = score_derived(config, drop, folder, cache or Cache(), keep=keep)
    if group.leads:
        write_result(folder, fingerprint, result)
    group.wait()
    _report_end(result, reporter)
    return result


def _report_end(result: RunResult, reporter: Reporter) -> None:
    if result.state == "finished" and result.score is not None:
        reporter.check(Check(result.step, result.steps, result.score, result.metrics, done=True))


@final
class _Run:
    """The parts and the progress of one run."""

    def __init__(
        self,
        config: FinetuneConfig,
        folder: Path,
        fingerprint: str,
        group: Group,
        cache: Cache | None,
    ) -> None:
        self._config, self._folder, self._group = config, folder, group
        self._fingerprint = fingerprint
        self._steps = config.steps(group.size)
        device = self._device = group.device()
        check_context(config.model, config.data.max_length)
        check_optimizer(config.optimizer)
        check_method(config.method, config.model)
        check_memory(config, group.size, device.type)
        check_hub_cache(config)
        group.from_lead(lambda: check_disk(config, folder))
        if group.leads:
            warn_of_rounding(config.model)
        restart_peak_memory(device)
        base = base_model(config, device, group, cache)
        self._model, self._tokenizer = base.model, base.tokenizer
        check_vocabulary(self._model, self._tokenizer)
        store = cache or Cache()
        benchmarks = config.evaluation.benchmarks
        against = None if config.data.decontaminate is None else benchmarks
        files = tuple(signature(part.path) for part in config.data.parts().values())
        settings = config.data.model_dump_json()
        key = ("data", settings, files, against, model_key(config, device))
        data = store.value(
            key,
            lambda: load_training_data(
                config.data, self._tokenizer, benchmarks, config.model.add_bos
            ),
        )
        check_prompt_formats(benchmarks, self._tokenizer)  # by default that of the rows
        self._counts = data.counts
        add_stop_tokens(self._model, data.ends)
        self._validation = Validation(
            config.evaluation,
            group,
            store,
            config.model.add_bos,
            computing_dtype(config.model.dtype, device),
        )
        self._trainer = Trainer(config, self._model, data, group, device, base.fill)
        self._saver = Saver(
            folder,
            fingerprint,
            config.keep_checkpoints,
            group if self._trainer.parallel.sharded else None,
            background=config.saves_in_background(device.type),
        )
        self._lasting = lasting_identity(config, group.size)
        self._train_seconds = self._eval_seconds = 0.0
        self._step = 0
        self._last: Check | None = None

    def go(self, reporter: Reporter) -> RunResult:
        """Train to the end, a stop, or a divergence."""
        try:
            result = self._go(reporter)
            self._saver.wait()
        finally:
            self._saver.close()
        return result

    def _go(self, reporter: Reporter) -> RunResult:
        self._resume()
        if self._last is not None and not reporter.check(self._last):
            return self._stopped()
        count, every = self._config.evaluation.checks, self._config.checkpoint_updates
        checks = check_steps(self._steps, count)
        saves = checkpoint_steps(self._steps, count, every)
        while self._step < self._steps:
            try:
                reporter.step(self._step + 1, self._update())
                fresh = self._check() if self._step in checks else None
            except DivergedError as error:
                return self._diverged(str(error))
            if self._step in saves:
                self._save()
            if fresh is not None and not fresh.done and not reporter.check(fresh):
                return self._stopped()
        return self._finish(reporter)

    def _update(self) -> dict[str, float]:
        started = time.perf_counter()
        metrics = self._trainer.update(self._step)
        self._train_seconds += time.perf_counter() - started
        self._step += 1
        return metrics

    def _check(self) -> Check:
        done = self._step == self._steps
        started = time.perf_counter()
        try:
            check_weights(self._model, self._group)
            if done:  # otherwise the next update checks it
                self._trainer.check_loss(self._step)
            with self._trainer.parallel.gathered():
                score, metrics = self._validation.check(self._model, self._tokenizer, final=done)
        except DivergedError as error:
            raise DivergedError(f"update {self._step}: {error}") from None
        self._eval_seconds += time.perf_counter() - started
        if done:
            metrics |= self._costs()
        self._last = Check(self._step, self._steps, score, metrics, done)
        return self._last

    def _costs(self) -> dict[str, float]:
        spent = {
            "cost/train_seconds": self._train_seconds,
            "cost/eval_seconds": self._eval_seconds,
        }
        measured = {TRAINED_SHARE: self._trainer.trained_share, **peak_memory(self._device)}
        return {**spent, **measured, **self._counts.metrics()}

    def _resume(self) -> None:
        with naming_workers(self._config, self._group.size):
            saved = self._group.agree(
                lambda: checkpoint.load(self._folder, self._fingerprint),
                lambda found: None if found is None else found.step,
                f"the checkpoint in {self._folder} (is it shared storage?)",
            )
        place = checkpoint.step_folder(self._folder, saved.step) if saved else None
        if saved is None and self._config.start_from is not None:
            place = Path(self._config.start_from)
            saved = checkpoint.load_start(place, self._config, self._group.size)
        if saved is None or place is None:
            return
        if self._trainer.parallel.sharded:
            saved = checkpoint.load_shards(place, saved, self._trainer.shards())
        self._trainer.restore(saved.model, saved.optimizer, saved.masker)
        self._train_seconds, self._eval_seconds = saved.train_seconds, saved.eval_seconds
        self._step = saved.step
        self._last = saved.check and replace(saved.check, steps=self._steps)

    def _save(self) -> None:
        sharded = self._trainer.parallel.sharded
        if not (sharded or self._group.leads):
            return
        model, optimizer, masker = self._trainer.states()
        state = Checkpoint(
            step=self._step,
            check=self._last,
            model=model,
            optimizer=optimizer,
            masker=masker,
            train_seconds=self._train_seconds,
            eval_seconds=self._eval_seconds,
            lasting=self._lasting,
        )
        self._saver.save(state)

    def _stopped(self) -> RunResult:
        """Keep the checkpoint: the run may be resumed or discarded later."""
        last = self._last
        if last is None:
            return RunResult("stopped", 0, self._steps, None)
        return RunResult("stopped", last.step, self._steps, last.score, last.metrics)

    def _diverged(self, reason: str) -> RunResult:
        result = RunResult(
            "diverged", self._step, self._steps, None, metrics=self._costs(), reason=reason
        )
        self._record(result)
        return result

    def _finish(self, reporter: Reporter) -> RunResult:
        """Record, then report: after a kill in between, the run is reported again, not lost."""
        last = self._last
        if last is None:  # unreachable: the last update is always checked
            raise RuntimeError("the run ended without a check")
        target = self._save_model() if self._config.keep == "model" else None
        result = RunResult("finished", last.step, self._steps, last.score, last.metrics, target)
        self._record(result)
        _report_end(result, reporter)
        return result

    def _record(self, result: RunResult) -> None:
        self._saver.wait()
        if self._group.leads:
            write_result(self._folder, self._fingerprint, result)
            checkpoint.discard(self._folder)
        self._group.wait()

    def _save_model(self) -> str:
        """Write the Hugging Face folder; if the model is sharded, every rank takes part."""
        target = self._folder / "model"
        state = self._trainer.parallel.whole_state()
        if self._group.leads:
            save_model(self._model, self._tokenizer, target, state)
        return str(target)
