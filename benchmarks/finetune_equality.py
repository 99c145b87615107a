"""A run on a real tiny model and real data, against transformers' Trainer and a script that sorts.

    python benchmarks/finetune_equality.py DATA --out benchmarks/records/DATE_name

DATA holds models/stories260K (a Hugging Face folder) and train/gsm8k/train.jsonl. One thread.
Three comparisons: the losses of SFT with transformers' Trainer; those of GMT with a loop of plain
PyTorch that sorts every gradient, in float32 and float64; the model of a run by `python -m sweeps
finetune`, killed with signal 9 at random updates three times, with that of an unbroken run.
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from finetune_peers import by_sorting, by_the_trainer

from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.loop import Cache, finetune
from sweeps.finetune.model import load_model
from sweeps.finetune.tokenized_data import load_training_data

BATCH, ACCUMULATION, RATIO, WARMUP, PEAK = 8, 2, 0.5, 0.1, 2e-3


def config(data: Path, updates: int, ratio: float, dtype: str = "float32") -> FinetuneConfig:
    """A run of `updates` updates of eight examples, in two micro-batches each."""
    rows = str(data / "train/gsm8k/train.jsonl")
    return FinetuneConfig.model_validate(
        {
            "model": {"path": str(data / "models/stories260K"), "dtype": dtype},
            "data": {
                "path": rows,
                "format": "gsm8k",
                "part": "train",
                "max_length": 384,
                "train_fraction": 0.2,
            },
            "method": {"name": "gmt" if ratio else "sft", "mask_ratio": ratio},
            "batch": {"fixed": "global_batch", "global_batch": BATCH},
            "accumulation_interval": ACCUMULATION,
            "learning_rate": PEAK,
            "warmup_ratio": WARMUP,
            "examples": updates * BATCH,
            "threads": 1,
            "checkpoint_updates": 5,
            "evaluation": {
                "checks": 1,
                "benchmarks": [
                    {
                        "name": "gsm8k",
                        "metric": "bits_per_byte",
                        "validation": rows,
                        "test": rows,
                        "limit": 20,
                    }
                ],
            },
        }
    )


class Losses:
    """Keeps the loss of every update."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, step: int, metrics: Any) -> None:
        """Keep one."""
        self.values.append(metrics["train/loss"])

    def check(self, check: Any) -> bool:
        """Go on."""
        return True


def ours(settings: FinetuneConfig, cache: Cache) -> list[float]:
    """The losses of a run."""
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        finetune(settings, Path(folder), losses, cache)
    return losses.values


def killed_and_whole(settings: FinetuneConfig, kills: list[int]) -> tuple[bool, list[int]]:
    """Whether the weights' files are equal, byte for byte; and the lines at each kill."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text = settings.model_dump(mode="json")
        (folder / "run.yaml").write_text(yaml.safe_dump(text))

        def start(name: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "sweeps", "finetune", str(folder / "run.yaml")]
            return subprocess.Popen([*command, f"folder={folder / name}"])

        if start("whole").wait():
            raise RuntimeError("the run failed")
        metrics, seen = folder / "killed" / "metrics.jsonl", []
        for at in kills:
            process = start("killed")
            while process.poll() is None and _lines(metrics) < at:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                raise RuntimeError("the run ended before it was killed")
            seen.append(_lines(metrics))
        if start("killed").wait():
            raise RuntimeError("the run failed")
        weights = [folder / name / "model" / "model.safetensors" for name in ("whole", "killed")]
        return weights[0].read_bytes() == weights[1].read_bytes(), seen


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def main() -> None:
    """Compare, print and write the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--part", choices=("curves", "kills"), help="one of the two alone")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part != "kills":
        compare_curves(given)
    if given.part != "curves":
        kills = sorted(random.Random(given.seed).sample(range(1, given.updates), 3))
        same, seen = killed_and_whole(config(given.data, given.updates, RATIO), kills)
        text = f"killed after {seen} lines of the metrics: the weights' bytes are equal: {same}\n"
        (given.out / "kills.txt").write_text(text)
        print(text, end="")


def compare_curves(given: argparse.Namespace) -> None:
    """Print how far the losses are apart, and write them."""
    sft, gmt = (config(given.data, given.updates, ratio) for ratio in (0.0, RATIO))
    # In float32 the rounding of another order of summation flips elements of the mask.
    wide = config(given.data, given.updates, RATIO, "float64")
    _, tokenizer = load_model(sft.model, torch.device("cpu"))
    data, cache = load_training_data(sft.data, tokenizer), Cache()
    curves: dict[str, list[float]] = {}
    for name, peer, settings, held_against in (
        ("ours_sft", "trainer_sft", sft, by_the_trainer),
        ("ours_gmt", "sorting_gmt", gmt, by_sorting),
        ("ours_gmt_float64", "sorting_gmt_float64", wide, by_sorting),
    ):
        curves[name] = mine = ours(settings, cache)
        curves[peer] = theirs = held_against(settings, data)[0]
        apart = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
        print(
            f"{name}, {peer}: {apart:.2e} apart at most over {len(mine)} updates; "
            f"the loss goes from {mine[0]:.4f} to {mine[-1]:.4f}",
            flush=True,
        )
    with (given.out / "loss_curves.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["update", *curves])
        rows = zip(*curves.values(), strict=True)
        writer.writerows([update, *row] for update, row in enumerate(rows, start=1))


if __name__ == "__main__":
    main()
