"""Tokens per second and peak memory against transformers' Trainer and TRL's SFTTrainer.

    python benchmarks/finetune_throughput.py --folder benchmarks/records/<date>_<name>
    python benchmarks/finetune_throughput.py --folder ... --model SmolLM2-135M --gsm8k train.jsonl

One machine, one model, the same examples; the trainers take turns (A, B, C, A, B, C, ...). A
token counts when it belongs to an example: padding does not. CPU seconds stand beside wall
seconds, since they are what a shared machine does not blur.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from finetune_peers import labelled
from made_up_world import SHAPES, save_world
from resident_memory import peak_growth
from transformers import AutoModelForCausalLM

from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example_selection import read_examples
from sweeps.finetune.finetune_config import FinetuneConfig, ModelConfig
from sweeps.finetune.model import load_model, load_tokenizer
from sweeps.finetune.process_group import Group
from sweeps.finetune.tokenized_data import TrainingData, load_training_data
from sweeps.finetune.trainer import Trainer

MAX_LENGTH, EXAMPLES = 256, 512
ON_GPU = torch.cuda.is_available()
ROWS, ACCUMULATION = 64 if ON_GPU else 4, 2  # an update sees 8 examples on a CPU
UPDATES_OF_MEMORY = 3  # enough to meet a long batch
MOST_STEPS = 10_000
TRAINERS = ("ours", "transformers", "trl", "ours_packed", "trl_packed", "ours_gmt")


@dataclass(frozen=True)
class Spent:
    """What some updates took: real tokens, wall and CPU seconds."""

    tokens: int
    wall: float
    cpu: float


class Clock:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def spent(self, tokens: int) -> Spent:
        """What `tokens` took since the beginning."""
        if ON_GPU:
            torch.cuda.synchronize()
        return Spent(tokens, time.perf_counter() - self._wall, time.process_time() - self._cpu)


def save_examples(world: Path) -> None:
    """A Llama of 8.4 million parameters, on a GPU of SmolLM2's shape, and short examples of
    unequal length."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.empty(EXAMPLES).log_normal_(4.0, 0.5, generator=draw).clamp(16, 200).int()
    save_world(
        world, SHAPES["smollm2" if ON_GPU else "8m"], context=MAX_LENGTH, lengths=lengths.tolist()
    )


def save_gsm8k(world: Path, model: Path, rows: Path) -> None:
    """A real model, and the rows of GSM8K that are at most MAX_LENGTH tokens long."""
    (world / "model").symlink_to(model.resolve(), target_is_directory=True)
    tokenizer = load_tokenizer(ModelConfig(path=str(model)))
    examples, _ = read_examples(DataConfig(path=str(rows), format="gsm8k"))
    with (world / "train.jsonl").open("w") as stream:
        for each in examples:
            prompt, response = (part.text for part in each.own)
            if len(tokenizer(prompt + response)["input_ids"]) < MAX_LENGTH:
                row = {"prompt": prompt, "response": response}
                stream.write(json.dumps(row) + "\n")


def config(world: Path, *, packing: bool, mask_ratio: float = 0.0) -> FinetuneConfig:
    """Our run, long enough for any number of updates."""
    place = str(world / "train.jsonl")
    return FinetuneConfig.model_validate(
        {
            "model": {"path": str(world / "model"), "dtype": "auto"},
            "data": {"path": place, "max_length": MAX_LENGTH, "packing": packing},
            "method": {"name": "gmt" if mask_ratio else "sft", "mask_ratio": mask_ratio},
            "batch": {"mini_batch": ROWS},
            "accumulation_interval": ACCUMULATION,
            "learning_rate": 1e-5,
            "examples": MOST_STEPS * ROWS * ACCUMULATION,
            "evaluation": {
                "benchmarks": [{"name": "exact_match", "validation": place, "test": place}]
            },
        }
    )


def ours(world: Path, *, packing: bool, mask_ratio: float = 0.0) -> Callable[[int], Spent]:
    """Our trainer, after its first update; it goes on where it stopped."""
    device = Group().device()
    settings = config(world, packing=packing, mask_ratio=mask_ratio)
    model, tokenizer = load_model(settings.model, device)
    data = load_training_data(settings.data, tokenizer)
    trainer = Trainer(settings, model.to(device), data, Group(), device)
    done = 0

    def updates(count: int) -> Spent:
        nonlocal done
        clock = Clock()
        for _ in range(count):
            trainer.update(done)
            done += 1
        # The order is a function of the update, so the tokens can be counted afterwards.
        batches = [trainer._order.batch(u, trainer._batch) for u in range(done - count, done)]
        return clock.spent(sum(data.size(batch) for batch in batches))

    updates(1)
    return updates


def tokenised(world: Path) -> list[dict[str, list[int]]]:
    """The examples' ids as the peers want them."""
    settings = config(world, packing=False)
    data: TrainingData = load_training_data(settings.data, load_tokenizer(settings.model))
    rows = [labelled(data, place) for place in range(len(data))]
    return [{**r, "completion_mask": [int(label >= 0) for label in r["labels"]]} for r in rows]


def arguments(steps: int, rows: int, accumulation: int, folder: str) -> dict[str, Any]:
    """The same optimizer, schedule and clipping for the peers."""
    return {
        "output_dir": folder,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": not ON_GPU,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "bf16": ON_GPU,  # float32 weights, products in bfloat16: what `dtype: auto` is for us
        "gradient_checkpointing": False,
    }


class Turns:
    """Lets a trainer of another library run a few updates at a time, in a thread of its own."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._clock, self._left, self._tokens = Clock(), 1, 0
        self._spent = Spent(0, 0.0, 0.0)

    def count(self, inputs: Any) -> None:
        """Count the tokens of a micro-batch without its padding."""
        mask = inputs.get("attention_mask")
        self._tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())

    def step_ended(self) -> None:
        """Called by the trainer; waits for the next turn if this one is over."""
        self._left -= 1
        if self._left == 0:
            self._spent = self._clock.spent(self._tokens)
            self._done.release()
            self._go.acquire()
            self._tokens = 0
            self._clock.start()

    def start(self, train: Callable[[], Any]) -> None:
        """Train up to the end of the first update, which is not counted."""

        def work() -> None:
            torch.set_num_threads(self._threads)
            train()

        threading.Thread(target=work, daemon=True).start()
        self._done.acquire()

    def updates(self, count: int) -> Spent:
        """What the next `count` updates took."""
        self._left = count
        self._go.release()
        self._done.acquire()
        return self._spent


def peer(world: Path, *, trl: bool, packing: bool = False) -> Callable[[int], Spent]:
    """A trainer of another library, after its first update."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers import Trainer as Plain

    rows = tokenised(world)
    tokenizer = AutoTokenizer.from_pretrained(world / "model")
    model = AutoModelForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    columns = ("input_ids", "completion_mask") if trl else ("input_ids", "labels")
    dataset = Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    turns = Turns(torch.get_num_threads())

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            turns.step_ended()

    # A packed row holds about as many tokens as a forward pass of ours may.
    options = arguments(MOST_STEPS, ROWS, 1 if packing else ACCUMULATION, str(world / "peer"))
    if trl:
        from trl import SFTConfig, SFTTrainer

        options |= {"max_length": MAX_LENGTH, "packing": packing}
        made: Any = SFTTrainer(
            model=model,
            args=SFTConfig(completion_only_loss=True, **options),
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[Watch()],
        )
    else:
        made = Plain(
            model=model,
            args=TrainingArguments(**options),
            train_dataset=dataset,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
            callbacks=[Watch()],
        )
    step = made.training_step

    def counted(model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
        turns.count(inputs)
        return step(model, inputs, *others, **named)

    made.training_step = counted
    turns.start(made.train)
    return turns.updates


def build(name: str, world: Path) -> Callable[[int], Spent]:
    """The trainer of that name: call it with a number of updates."""
    match name:
        case "transformers":
            return peer(world, trl=False)
        case "trl" | "trl_packed":
            return peer(world, trl=True, packing=name == "trl_packed")
        case "ours_gmt":
            return ours(world, packing=False, mask_ratio=0.4)
        case _:
            return ours(world, packing=name == "ours_packed")


def peak_memory(name: str, world: str, threads: int, box: Any) -> None:
    """In a process of its own: how far a model and its training rise above the libraries, in MiB.

    All of them, so that no trainer pays for its own.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    if find_spec("trl") is not None:
        importlib.import_module("trl.trainer.sft_trainer")
    box.put(peak_growth(lambda: build(name, Path(world))(UPDATES_OF_MEMORY)))


def measure(options: argparse.Namespace) -> None:
    """Let them take turns, then look at the memory of each, and write the record."""
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    names = options.trainers
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary)
        if options.model is None:
            save_examples(world)
        else:
            save_gsm8k(world, options.model, options.gsm8k)
        trainers = {name: build(name, world) for name in names if options.rounds}
        taken: dict[str, list[Spent]] = {name: [] for name in names}
        for turn in range(options.rounds):
            for name, updates in trainers.items():
                taken[name].append(updates(options.updates))
                spent = taken[name][-1]
                print(turn, name, f"{spent.tokens / spent.wall:.0f} tokens/s", flush=True)
            write(options.folder, taken, {})  # what is cut short keeps what it measured
        memory: dict[str, float] = {}
        if options.memory:
            memory = {name: _in_a_process(name, world, options.threads) for name in names}
    write(options.folder, taken, memory)
    print((options.folder / "summary.json").read_text())


def _in_a_process(name: str, world: Path, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    box = context.Queue()
    process = context.Process(target=peak_memory, args=(name, str(world), threads, box))
    process.start()
    mebibytes = float(box.get())
    process.join()
    return mebibytes


def rates(rounds: list[Spent]) -> dict[str, float]:
    """Tokens per second over the rounds."""
    return {
        "tokens_per_second_best": max(s.tokens / s.wall for s in rounds),
        "tokens_per_second_median": statistics.median(s.tokens / s.wall for s in rounds),
        "tokens_per_cpu_second_median": statistics.median(s.tokens / s.cpu for s in rounds),
    }


def write(folder: Path, taken: dict[str, list[Spent]], memory: dict[str, float]) -> None:
    """Every round as CSV, and the summary as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rounds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["trainer", "round", "tokens", "wall_seconds", "cpu_seconds"])
        for name, rounds in taken.items():
            for number, spent in enumerate(rounds):
                writer.writerow(
                    [name, number, spent.tokens, round(spent.wall, 4), round(spent.cpu, 4)]
                )
    summary = {
        name: {**(rates(rounds) if rounds else {}), "peak_memory_mib": memory.get(name)}
        for name, rounds in taken.items()
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a model's folder; with --gsm8k")
    parser.add_argument("--gsm8k", type=Path, help="the training rows of GSM8K")
    parser.add_argument("--rounds", type=int, default=5, help="0: memory only")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    measure(parser.parse_args())
