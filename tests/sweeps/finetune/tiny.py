"""A model of a few thousand parameters, its tokenizer, and a task that it can learn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.benchmark import BenchmarkResult
from evaluators.tokens import AddBos
from sweeps.finetune.example import Example
from sweeps.finetune.finetune_config import BenchmarkConfig, FinetuneConfig, ModelConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.process_state import preserve_global_state
from sweeps.finetune.reporter import Check
from sweeps.finetune.validation import evaluate_model

CHARACTERS = "0123456789+= abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.?\n"
ABSENT_TEST = "/nonexistent/test-items.jsonl"


def save_model(folder: Path, *, context: int = 64) -> Path:
    words = ["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS]
    raw = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.index("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def save_world(folder: Path) -> Path:
    """model/, train.jsonl (40 sums of unequal length), validation.jsonl (6 items)."""
    save_model(folder / "model")
    sums = [(7 * i % 100, (i * i) % (10 ** (1 + i % 3))) for i in range(46)]
    rows = [
        {
            "id": f"sum-{number}",
            "prompt": f"{a}+{b}=",
            "response": f"{a + b}",
            "reference": f"{a + b}",
            "answer": f"{a + b}",
        }
        for number, (a, b) in enumerate(sums)
    ]
    save_rows(folder / "train.jsonl", rows[:40])
    save_rows(folder / "validation.jsonl", rows[40:])
    return folder


def config(world: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "model": {"path": str(world / "model")},
        "data": {"path": str(world / "train.jsonl"), "max_length": 32},
        "method": {"name": "gmt", "mask_ratio": 0.4},
        "batch": {"mini_batch": 4},
        "accumulation_interval": 2,
        "learning_rate": 0.01,
        "examples": 48,
        "threads": 1,
        "evaluation": {
            "checks": 3,
            "check_limit": 3,
            "benchmarks": [
                {
                    "name": "exact_match",
                    "validation": str(world / "validation.jsonl"),
                    "test": ABSENT_TEST,
                    "metric": "bits_per_byte",
                }
            ],
        },
    }
    return FinetuneConfig.model_validate({**values, **changes})


def parameters(folder: str | Path | None) -> dict[str, torch.Tensor]:
    assert folder is not None
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: value.detach() for name, value in model.named_parameters()}


def assert_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


def largest_difference(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def pair_of(example: Example) -> tuple[str, str]:
    """Prompt and response of an example with one answer."""
    prompt, response = example.own
    assert (prompt.is_learned, response.is_learned, response.ends) == (False, True, True)
    return prompt.text, response.text


class Killed(Exception):
    """Stands for the end of the process."""


class MemoryReporter:
    """Keeps everything; stops or dies where told."""

    def __init__(
        self,
        *,
        stop_at: int | None = None,
        die_at_step: int | None = None,
        die_at_check: int | None = None,
    ) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.checks: list[Check] = []
        self._stop_at, self._die_at_step, self._die_at_check = stop_at, die_at_step, die_at_check

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self._die_at_step:
            raise Killed
        self.steps[step] = dict(metrics)

    def check(self, check: Check) -> bool:
        if check.step == self._die_at_check:
            raise Killed
        self.checks.append(check)
        return check.step != self._stop_at

    def losses(self) -> list[float]:
        return [self.steps[step]["train/loss"] for step in sorted(self.steps)]


def evaluate_folder(
    folder: str | Path,
    benchmarks: Sequence[BenchmarkConfig],
    split: Literal["validation", "test"] = "test",
    add_bos: AddBos = "auto",
) -> dict[str, BenchmarkResult]:
    """Scores of a saved model on one CPU thread."""
    device = torch.device("cpu")
    with preserve_global_state(device, 1):
        model, tokenizer = load_model(ModelConfig(path=str(folder)), device)
        return evaluate_model(model.eval(), tokenizer, benchmarks, split, add_bos=add_bos)
