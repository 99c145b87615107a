"""SFT and GMT side by side on an accelerator: tokens per second, MFU, peak memory.

    python benchmarks/finetune_gpu.py --out benchmarks/records/DATE_finetune_gpu
    torchrun --nproc-per-node 8 benchmarks/finetune_gpu.py --out FOLDER --parallel fsdp

A Llama of 1.0 billion random parameters (Llama-3.2-1B's shape, vocabulary of 32,000), float32
weights and bfloat16 products, random examples that fill the context, AdamW. The two methods take
turns on one model each. The record has the memory that `check_memory` expects beside the peak.
`--shape tiny` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from made_up_world import SHAPES, save_world

from sweeps.execution.single_run import process_group
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory_check import worker_need
from sweeps.finetune.model import load_model
from sweeps.finetune.process_group import Group
from sweeps.finetune.run_costs import peak_memory
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer


def run(world: Path, given: argparse.Namespace, group: Group, ratio: float) -> FinetuneConfig:
    """A run of one method that is long enough for any number of updates."""
    rows = str(world / "train.jsonl")
    return FinetuneConfig.model_validate(
        {
            "model": {
                "path": str(world / "model"),
                "dtype": "auto",
                "gradient_checkpointing": given.gradient_checkpointing,
                "compile": given.compile,
            },
            "data": {"path": rows, "max_length": given.length},
            "method": {"name": "gmt" if ratio else "sft", "mask_ratio": ratio},
            "batch": {"mini_batch": given.rows},
            "accumulation_interval": given.accumulation,
            "learning_rate": 1e-5,
            "examples": 10_000 * given.rows * given.accumulation * group.size,
            "parallel": given.parallel,
            "statistics_every": given.statistics_every,
            "evaluation": {
                "benchmarks": [{"name": "exact_match", "validation": rows, "test": rows}]
            },
        }
    )


def trainer(config: FinetuneConfig, group: Group) -> Trainer:
    """A trainer on the accelerator where there is one, after two updates."""
    device = group.device()
    model, tokenizer = load_model(config.model, device)
    data = load_training_data(config.data, tokenizer)
    made = Trainer(config, model.to(device), data, group, device)
    for update in range(2):
        made.update(update)
    return made


def measure(made: Trainer, first: int, given: argparse.Namespace) -> dict[str, float]:
    """Medians over some updates after the first, and the peak of memory in GiB."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seen, start = [], time.perf_counter()
    for update in range(first, first + given.updates):
        seen.append(made.update(update))
    if cuda:
        torch.cuda.synchronize()
    keys = [key for key in ("train/tokens_per_second", "train/mfu") if key in seen[0]]
    found: dict[str, float] = {key: statistics.median(each[key] for each in seen) for key in keys}
    found["seconds_per_update"] = (time.perf_counter() - start) / given.updates
    if cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Measure in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8, help="examples per micro-batch and worker")
    parser.add_argument("--accumulation", type=int, default=4)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--mask-ratio", type=float, default=0.3)
    parser.add_argument("--statistics-every", type=int, default=10)
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    given = parser.parse_args()
    with process_group(), tempfile.TemporaryDirectory() as folder:
        group, world = Group.current(), Path(folder)
        lengths = [given.length - 2] * 512  # the first and the last token come from the tokenizer
        save_world(
            world,
            SHAPES[given.shape],
            context=given.length,
            lengths=lengths,
            dtype=torch.bfloat16,
        )
        rounds: list[dict[str, dict[str, float]]] = []
        sft = run(world, given, group, 0.0)
        need = worker_need(sft, group.size, group.device().type)
        made = {"sft": trainer(sft, group)}
        memory = {"expected_gib": 0.0 if need is None else need.total / 2**30}
        memory |= peak_memory(group.device())
        made["gmt"] = trainer(run(world, given, group, given.mask_ratio), group)
        for number in range(given.rounds):
            first = 2 + number * given.updates
            rounds.append({n: measure(each, first, given) for n, each in made.items()})
            if group.leads:
                print(number, json.dumps(rounds[-1]), flush=True)
    if group.leads:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        settings = {name: str(value) for name, value in vars(given).items() if name != "out"}
        record: dict[str, object] = {"torch": torch.__version__, "device": device, **settings}
        record |= {"one_trainer": memory, "rounds": rounds}
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "finetune_gpu.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
