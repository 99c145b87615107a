"""The configuration of one fine-tuning run: frozen, strict, with an error for every mistake."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from evaluators.protocol import HARNESS, Changes, is_harness
from evaluators.tokens import AddBos
from sweeps.finetune.strict_model import LocalPath, StrictModel

TrainFormat = Literal[
    "prompt_response",
    "alpaca",
    "competition_math",
    "gsm8k",
    "magicoder_evol_instruct",
    "mbpp",
    "messages",
    "metamathqa",
    "self_instruct",
    "sharegpt",
    "tulu_v2",
]
HOMES: dict[str, dict[str, str]] = {
    "alpaca": {"path": "tatsu-lab/alpaca"},
    "competition_math": {"path": "DigitalLearningGmbH/MATH-lighteval"},
    "gsm8k": {"path": "openai/gsm8k", "subset": "main"},
    "magicoder_evol_instruct": {"path": "ise-uiuc/Magicoder-Evol-Instruct-110K"},
    "mbpp": {"path": "google-research-datasets/mbpp", "subset": "full"},
    "metamathqa": {"path": "meta-math/MetaMathQA"},
    "tulu_v2": {"path": "allenai/tulu-v2-sft-mixture"},
}
"""The formats with a default dataset on the Hub."""

PositiveInt = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class BatchError(ValueError):
    """The batch sizes do not divide evenly; the message names them."""


class ModelConfig(StrictModel):
    """The base model, a Hugging Face folder or hub name, and how it is loaded.

    `dtype`: `mixed_bfloat16` keeps float32 weights and computes in bfloat16; `auto` is bfloat16 on
    accelerators that support it, else float32. `attention`: `auto` is flash attention if it is
    installed and applicable, else SDPA. `gradient_checkpointing` trades time for memory.
    `add_bos`: whether prompts start with the beginning-of-sequence token (BOS), in training and in
    scoring; `auto` follows the tokenizer.
    """

    path: LocalPath
    dtype: Literal["float32", "bfloat16", "mixed_bfloat16", "float64", "auto"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    add_bos: AddBos = "auto"


class DataConfig(StrictModel):
    """The training rows, all in one format.

    `path`: a file (.jsonl, .json, .csv, .parquet), several separated by commas, a folder of them,
    or a hub dataset with its `subset`, `split` and `revision`; by default the format's dataset on
    the hub. `part="train"` leaves out rows that a benchmark on the same set evaluates on.
    `template="chat"` uses the tokenizer's chat template instead of the format's own prompt.
    `max_length` is the total length in tokens. `train_fraction` is the share of examples to train
    on. `decontaminate` (usually 13) leaves out examples that share that many consecutive words
    with an item of the run's benchmarks. `packing` packs the examples of a micro-batch into rows
    of up to `max_length` tokens instead of padding them; the results are the same.
    """

    path: LocalPath
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    format: TrainFormat = "prompt_response"
    part: Literal["all", "train"] = "all"
    template: Literal["own", "chat"] = "own"
    max_length: int = Field(default=256, ge=2)
    train_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    decontaminate: int | None = Field(default=None, ge=3)
    packing: bool = False
    on_bad_row: Literal["stop", "skip"] = "stop"

    @model_validator(mode="before")
    @classmethod
    def _at_home_on_the_hub(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("path") is not None:
            return values
        home = HOMES.get(str(values.get("format")), {})
        return {**home, **{name: value for name, value in values.items() if name != "path"}}


class DropConfig(StrictModel):
    """One-off Drop of `tuned`, the model folder of a finished SFT run of the same base model.

    `rate` is the share of its changes that are reset to the base value: the smallest (trivial),
    the largest (salient) or random ones.
    """

    tuned: LocalPath
    rule: Literal["trivial", "random", "salient"] = "trivial"
    rate: float = Field(ge=0.0, lt=1.0)
    seed: int = 0


class MethodConfig(StrictModel):
    """How gradients are masked; `mask_ratio` is the fraction of elements zeroed.

    `hft` freezes half of each block and has no ratio; `drop` trains nothing (see DropConfig).
    """

    name: Literal["gmt", "sft", "random", "hft", "drop"] = "gmt"
    mask_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    scope: Literal["tensor", "global"] = "tensor"
    drop: DropConfig | None = None

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.name not in ("gmt", "random") and self.mask_ratio > 0:
            does = {"sft": "masks nothing", "hft": "freezes half of each block"}
            raise ValueError(
                f"method.name '{self.name}' {does.get(self.name, 'trains nothing')}, expected "
                f"mask_ratio 0, got {self.mask_ratio:g}"
            )
        if (self.name == "drop") != (self.drop is not None):
            found = "none" if self.drop is None else "one"
            raise ValueError(
                f"method.drop is required by method.name 'drop', and only there; got "
                f"{found} with '{self.name}'"
            )
        return self


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
    below it change the protocol; demonstrations are validation items.
    """

    name: LocalPath
    preset: Literal["plain", "table1", "table2", "full"] | None = None
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
    of each benchmark, the last one the benchmark's own `limit`.
    """

    checks: PositiveInt = 3
    check_limit: PositiveInt | None = None


class EvaluationConfig(ChecksConfig):
    """The checks of a run and its benchmarks."""

    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)

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
    change, or `wsd` (warm-up, stable, decay), which falls in the last fifth of the updates. A
    checkpoint is saved at every validation check except the last, and every `checkpoint_updates`
    updates if given; `checkpoint_async` writes it in the background from a copy in CPU memory.
    Mask statistics are measured every `statistics_every` updates (0: never).
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
    statistics_every: int = Field(default=STATISTICS_EVERY, ge=0)
    threads: PositiveInt | None = None
    checkpoint_updates: PositiveInt | None = None
    checkpoint_async: bool = False


class FinetuneConfig(SharedSettings):
    """One run. The `keep_checkpoints` latest checkpoints are kept until its end.

    `micro_splits` splits each micro-batch into that many parts: less memory, and the same gradient
    up to rounding.
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
