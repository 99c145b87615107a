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
    """The base model, and how it is loaded."""

    path: LocalPath
    """A Hugging Face folder, a hub name, or `mini:model`."""
    dtype: Literal["float32", "bfloat16", "mixed_bfloat16", "float64", "auto"] = "auto"
    """`mixed_bfloat16` keeps float32 weights and computes in bfloat16; `auto` is that on
    accelerators that support it, else float32."""
    revision: str | None = None
    """The commit, tag or branch of a model on the hub."""
    trust_remote_code: bool = False
    """Whether code in the model's repository may run."""
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    """`auto` is flash attention if it is installed and applicable, else SDPA."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Use `torch.compile`: faster updates, a slower start."""
    add_bos: AddBos = "auto"
    """Whether prompts start with the beginning-of-sequence token (BOS), in training and in
    scoring; `auto` follows the tokenizer."""
    added_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """New tokens of tokenizer and model: each gets an embedding near the mean of the others, is
    trained, and is saved with the model. Refused with `lora`, which freezes the embeddings."""


class BatchConfig(StrictModel):
    """What stays fixed if the accumulation interval N changes."""

    fixed: Literal["mini_batch", "global_batch"] = "mini_batch"
    """`mini_batch`: an update sees N x mini_batch x workers examples, as in the paper.
    `global_batch`: it always sees global_batch examples, and N trades memory for time."""
    mini_batch: PositiveInt | None = None
    """Examples per mini-batch and worker, with `fixed: mini_batch`."""
    global_batch: PositiveInt | None = None
    """Examples per update on all workers together, with `fixed: global_batch`."""

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
    """One benchmark; the keys from `shots` on change its protocol."""

    name: LocalPath
    """A benchmark, `lm_eval:TASK`, or your own .yaml or .py file."""
    preset: Literal["plain", "table1", "table2", "table2_chat", "full"] | None = None
    """The protocol: `table1` and `table2` are those of the paper's tables; null is the benchmark's
    default."""
    validation: LocalPath
    """A file, a folder, or hub:owner/name@revision. A task of lm-eval has its own data."""
    test: LocalPath
    """As `validation`. The two may be the same if the benchmark itself separates validation and
    test items."""
    limit: PositiveInt | None = None
    """The number of validation items, always the same ones; null: all."""
    test_limit: PositiveInt | None = None
    """The number of test items; null: all."""
    metric: str | None = None
    """The metric that is the score; null: the benchmark's primary metric."""
    sandbox: str | None = None
    """The isolation of generated programs, `bubblewrap` or `rlimits`; null: `bubblewrap`."""
    timeout: float | None = None
    """Seconds that a generated program may run; null: the benchmark's limit."""
    memory_mb: int | None = None
    """MiB of memory that a generated program may use; null: the benchmark's limit."""
    packages: tuple[str, ...] | None = None
    """Installed packages that generated programs may import, besides the standard library and
    numpy."""
    shots: int | None = None
    """The number of demonstrations; they are validation items."""
    fewshot_seed: int | None = None
    """The seed that draws the demonstrations."""
    system_prompt: str | None = None
    """A text before everything else, in a chat the system turn."""
    max_new_tokens: int | None = None
    """The most tokens of an answer."""
    temperature: float | None = None
    """The sampling temperature; 0 is greedy."""
    top_p: float | None = None
    """The probability mass that sampling draws from, in (0, 1]."""
    samples: int | None = None
    """Answers drawn per item."""
    k: int | None = None
    """The k of pass@k and maj@k, at most `samples`."""
    prompt_format: PromptFormat | None = None
    """The format of prompts; null: that of the training rows, or `raw` if there is a preset."""
    fewshot_as: Literal["turns", "text"] | None = None
    """Demonstrations in a prompt format: turns of their own, or text in the user's turn."""

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
    """When the model is scored during training, and on how many items: validation items only."""

    checks: PositiveInt = 3
    """The number of validation checks, evenly spaced, the last one at the end."""
    check_limit: PositiveInt | None = None
    """Items of each benchmark at all checks but the last; null: as many as at the last."""
    forgetting: LocalPath | None = None
    """A text whose bits per byte are measured at the end; not part of the score."""


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
    """The benchmarks; the score is the mean of their primary metrics."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [benchmark.name for benchmark in self.benchmarks]
        if len(set(names)) != len(names):
            raise ValueError(f"evaluation.benchmarks: expected each name once, got {names}")
        return self


STATISTICS_EVERY: Final = 10  # updates from one whose mask is measured to the next


class SharedSettings(StrictModel):
    """The settings that all trials of a sweep share, and those of a single run."""

    examples: PositiveInt
    """Training examples in total, for any accumulation interval: a multiple of the effective
    batch. Three epochs of 20,000 rows are 60000."""
    batch: BatchConfig
    """The batch sizes, and which one stays fixed if the accumulation interval N changes."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """The optimizer's weight decay."""
    warmup_ratio: float = Field(default=0.03, ge=0.0, le=1.0)
    """The fraction of the updates in which the learning rate rises linearly from 0."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """The largest norm of the whole gradient, before the mask; null: no clipping."""
    optimizer: Literal["adamw", "adamw_8bit", "adafactor"] = "adamw"
    """`adamw` is fused; `adamw_8bit` needs bitsandbytes, a GPU and `parallel: ddp`."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """The learning rate after the warm-up: half a cosine to 0, a line to 0, no change, or `wsd`
    (warm-up, stable, decay): a line to 0 in the last fifth of the updates."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """`ddp`: a copy of the model per worker; `fsdp`: shards of it (FSDP2)."""
    reduce_gradients: Literal["auto", "update", "micro_batch"] = "auto"
    """With `fsdp`: add up the workers' gradients once per `update`, each holding a whole
    gradient until then, or on every `micro_batch`; `auto`: once per update if that fits."""
    statistics_every: int = Field(default=STATISTICS_EVERY, ge=0)
    """Updates between two measurements of the mask, from the first; 0: never."""
    threads: PositiveInt | None = None
    """CPU threads of torch in each worker; null: those of the process."""
    chunked_loss: Literal["auto", True, False] = "auto"
    """Never hold all logits of a micro-batch: less memory, a gradient equal up to rounding. `auto`
    does so on accelerators if a micro-batch has more target tokens than the hidden state has
    features."""
    checkpoint_updates: PositiveInt | None = None
    """Updates between two checkpoints, besides those at each validation check except the last;
    null: no others."""
    checkpoint_async: Literal["auto", True, False] = "auto"
    """Write checkpoints in the background, from a copy in CPU memory; `auto` does so on
    accelerators."""

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
    """One run: a model, training rows, a method, and benchmarks with validation checks."""

    model: ModelConfig
    """The base model."""
    data: DataConfig
    """The training rows."""
    method: MethodConfig = MethodConfig()
    """How gradients are masked."""
    accumulation_interval: PositiveInt = 1
    """Mini-batches per update (elsewhere `gradient_accumulation_steps`)."""
    learning_rate: float = Field(gt=0.0)
    """The peak of the schedule."""
    evaluation: EvaluationConfig
    """The validation checks and the benchmarks."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The seed of the order of examples, dropout and random masks."""
    micro_splits: PositiveInt = 1
    """Parts into which each micro-batch is split: less memory, a gradient equal up to rounding."""
    keep_checkpoints: PositiveInt = 1
    """The number of checkpoints kept until the run ends."""
    keep: Literal["none", "model"] = "model"
    """Whether the trained model is saved."""
    start_from: LocalPath | None = None
    """The folder of a checkpoint of a run with the same model, data, batches, optimizer and seed;
    this run continues it with settings of its own."""

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
