"""The configuration of one fine-tuning run: frozen, strict, with an error for every mistake."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from evaluators.prompt_formats import PromptFormat
from evaluators.protocol import HARNESS, Changes, is_harness
from evaluators.tokens import AddBos
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.strict_model import LocalPath, StrictModel

PositiveInt = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class BatchError(ValueError):
    """The batch sizes do not divide evenly; the message names them."""


class ModelConfig(StrictModel):
    """The base model, a Hugging Face folder or hub name, and how it is loaded.

    `dtype`: `mixed_bfloat16` keeps float32 weights and computes in bfloat16; `auto` is that on
    accelerators that support it, else float32. `attention`: `auto` is flash attention if it is
    installed and applicable, else SDPA. `gradient_checkpointing` trades time for memory.
    `add_bos`: whether prompts start with the beginning-of-sequence token (BOS), in training and in
    scoring; `auto` follows the tokenizer. `added_tokens` are new to the tokenizer and the model:
    each gets an embedding near the mean of the others, and is saved with the model.
    """

    path: LocalPath
    dtype: Literal["float32", "bfloat16", "mixed_bfloat16", "float64", "auto"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    add_bos: AddBos = "auto"
    added_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()


class BatchConfig(StrictModel):
    """What stays fixed if the accumulation interval N changes.

    `mini_batch` (per worker): the effective batch is N x mini_batch x workers. `global_batch`: the
    effective batch is fixed, and N only trades memory for time.
    """

    fixed: Literal["mini_batch", "global_batch"] = "mini_batch"
    mini_batch: PositiveInt | None = None
    global_batch: PositiveInt | None = None

    @model_validator(mode="after")
    def _exactly_the_held_size(self) -> Self:
        sizes = {"mini_batch": self.mini_batch, "global_batch": self.global_batch}
        given = [name for name, size in sizes.items() if size is not None]
        if given != [self.fixed]:
            raise ValueError(
                f"batch.fixed is '{self.fixed}': expected batch.{self.fixed} and no other size, "
                f"got {' and '.join(given) or 'none'}"
            )
        return self

    def size(self) -> int:
        """The size that stays fixed."""
        size: int = getattr(self, self.fixed)
        return size


class BenchmarkConfig(StrictModel):
    """One benchmark of the domain; `limit` and `test_limit` count items (None = all).

    `preset`: the protocol (`table1`, `table2`: the paper's tables; None: the benchmark's default).
    `validation` and `test`: a file or folder each, or hub:owner/name@revision. They may be the
    same if the benchmark itself separates validation and test items. A task of lm-eval
    (`lm_eval:TASK`) has data of its own. `sandbox`, `timeout` (seconds), `memory_mb` and
    `packages` limit generated programs (None: the benchmark's limits). `shots` and the settings
    below it change the protocol; demonstrations are validation items. `prompt_format`: by default
    that of the training rows (None: raw, also if there is a preset).
    """

    name: LocalPath
    preset: Literal["plain", "table1", "table2", "table2_chat", "full"] | None = None
    validation: LocalPath
    test: LocalPath
    limit: PositiveInt | None = None
    test_limit: PositiveInt | None = None
    metric: str | None = None
    sandbox: str | None = None
    timeout: float | None = None
    memory_mb: int | None = None
    packages: tuple[str, ...] | None = None
    shots: int | None = None
    fewshot_seed: int | None = None
    system_prompt: str | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    samples: int | None = None
    k: int | None = None
    prompt_format: PromptFormat | None = None
    fewshot_as: Literal["turns", "text"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _harness_has_data(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not is_harness(name := str(values.get("name"))):
            return values
        task = name.removeprefix(HARNESS)
        source = task if task.endswith((".yaml", ".yml")) else name
        for part in ("validation", "test"):
            if values.get(part) not in (None, source):
                raise ValueError(f"{name} has its own data, expected no {part}: {values[part]}")
        return {**values, "validation": source, "test": source}

    @model_validator(mode="after")
    def _changes_are_possible(self) -> Self:
        self.changes()
        return self

    def changes(self) -> Changes:
        """What differs from the benchmark's protocol; ValueError for an impossible number."""
        names = {field.name for field in fields(Changes)} - {"shots_from"}
        given = {name: getattr(self, name) for name in names}
        own = self.shots and not is_harness(self.name)
        return Changes(**given, shots_from=self.validation if own else None)


class ChecksConfig(StrictModel):
    """When the model is scored during training, and on how many items: validation items only.

    `checks` are evenly spaced, the last one at the end. The earlier ones use `check_limit` items
    of each benchmark, the last one the benchmark's own `limit`. `forgetting`: a text whose bits
    per byte are measured at the end, and never used for selection.
    """

    checks: PositiveInt = 3
    check_limit: PositiveInt | None = None
    forgetting: LocalPath | None = None


Benchmarks = tuple[BenchmarkConfig, ...]


def asked_as_trained(benchmarks: Benchmarks, data: DataConfig) -> Benchmarks:
    """The benchmarks, in the prompt format of the rows unless they have one or a preset."""
    form = data.prompt_format()
    return tuple(
        each
        if form == "raw" or each.preset or each.prompt_format
        else each.model_copy(update={"prompt_format": form})
        for each in benchmarks
    )


class EvaluationConfig(ChecksConfig):
    """The checks of a run and its benchmarks."""

    benchmarks: Benchmarks = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError(f"evaluation.benchmarks: expected each name once, got {names}")
        return self


STATISTICS_EVERY: Final = 10  # updates from one whose mask is measured to the next


class SharedSettings(StrictModel):
    """The settings that all trials of a sweep share, and those of a single run.

    `examples` is the total number of training examples consumed, for any accumulation interval.
    After the warm-up, the learning rate follows `schedule`: half a cosine or a line to zero, no
    change, or `wsd` (warm-up, stable, decay), which falls in the last fifth of the updates. With
    `parallel: fsdp`, ranks add up their gradients once per `update`, until which each holds a
    whole one, or on every `micro_batch` (`reduce_gradients`; `auto`: once if that fits). A
    checkpoint is saved at every validation check except the last, and every `checkpoint_updates`
    updates if given; `checkpoint_async` writes it in the background from a copy in CPU memory;
    `auto` does so on accelerators.
    Mask statistics are measured every `statistics_every` updates (0: never). `chunked_loss` never
    holds all logits of a micro-batch: less memory, and the same gradient up to rounding; `auto`
    uses it on accelerators.
    """

    examples: PositiveInt
    batch: BatchConfig
    weight_decay: float = Field(default=0.0, ge=0.0)
    warmup_ratio: float = Field(default=0.03, ge=0.0, le=1.0)
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    reduce_gradients: Literal["auto", "update", "micro_batch"] = "auto"
    statistics_every: int = Field(default=STATISTICS_EVERY, ge=0)
    threads: PositiveInt | None = None
    chunked_loss: Literal["auto", True, False] = "auto"
    checkpoint_updates: PositiveInt | None = None
    checkpoint_async: Literal["auto", True, False] = "auto"

    @model_validator(mode="after")
    def _optimizer_can_be_sharded(self) -> Self:
        if self.parallel == "fsdp" and self.optimizer == "adamw_8bit":
            raise ValueError(
                "parallel: 'fsdp' shards every parameter, which optimizer 'adamw_8bit' cannot "
                "train; expected optimizer 'adamw' or 'adafactor', or parallel 'ddp'"
            )
        return self

    def saves_in_background(self, device: str) -> bool:
        """Whether training goes on while a checkpoint is written, on "cpu" or "cuda"."""
        return device != "cpu" if self.checkpoint_async == "auto" else self.checkpoint_async


class FinetuneConfig(SharedSettings):
    """One run. The `keep_checkpoints` latest checkpoints are kept until its end.

    `micro_splits` splits each micro-batch into that many parts: less memory, and the same gradient
    up to rounding. `start_from`: the folder of a checkpoint, in which another run with the same
    model, data and batches left off; this run continues it with settings of its own.
    """

    model: ModelConfig
    data: DataConfig
    method: MethodConfig = MethodConfig()
    accumulation_interval: PositiveInt = 1
    learning_rate: float = Field(gt=0.0)
    evaluation: EvaluationConfig
    seed: int = Field(default=0, ge=0, lt=2**63)
    micro_splits: PositiveInt = 1
    keep_checkpoints: PositiveInt = 1
    keep: Literal["none", "model"] = "model"
    start_from: LocalPath | None = None

    @model_validator(mode="after")
    def _asked_as_trained(self) -> Self:
        asked = asked_as_trained(self.evaluation.benchmarks, self.data)
        evaluation = self.evaluation.model_copy(update={"benchmarks": asked})
        object.__setattr__(self, "evaluation", evaluation)
        return self

    @model_validator(mode="after")
    def _continues_training(self) -> Self:
        if self.start_from is not None and self.method.name == "drop":
            raise ValueError(
                "start_from: method.name 'drop' trains nothing, expected no checkpoint"
            )
        return self

    def effective_batch(self, workers: int) -> int:
        """Examples per optimizer step, over all workers."""
        return self.accumulation_interval * self.micro_batch(workers) * workers

    def micro_batch(self, workers: int) -> int:
        """Examples per mini-batch and worker; raises BatchError if not a whole number."""
        if self.batch.fixed == "mini_batch":
            return self.batch.size()
        size, parts = self.batch.size(), self.accumulation_interval * workers
        if size % parts:
            raise BatchError(
                f"batch.global_batch: expected a multiple of accumulation_interval x workers "
                f"= {self.accumulation_interval} x {workers} = {parts}, got {size}"
            )
        return size // parts

    def forward_batch(self, workers: int) -> int:
        """Examples that a worker processes at once; raises BatchError if not a whole number."""
        size = self.micro_batch(workers)
        if size % self.micro_splits:
            raise BatchError(
                f"micro_splits: expected a divisor of the micro-batch {size}, got "
                f"{self.micro_splits}"
            )
        return size // self.micro_splits

    def steps(self, workers: int) -> int:
        """Optimizer steps of the run; raises BatchError if the examples do not divide evenly."""
        batch = self.effective_batch(workers)
        if self.examples % batch:
            raise BatchError(
                f"examples: expected a multiple of the effective batch {batch} "
                f"(accumulation_interval {self.accumulation_interval} x mini-batch "
                f"{self.micro_batch(workers)} x workers {workers}), got {self.examples}"
            )
        return self.examples // batch
