"""Score models on test items by both metrics: the benchmark's own and bits per byte.

The sweep ranks trials by bits per byte, which generates nothing; exact match, pass@1 and accuracy
are measured here, for the base model, the best SFT trial and the best trial of each domain.

    python score_test_items.py STUDY_FOLDER DATA ITEMS > test_scores.csv
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import torch

from sweeps.finetune.finetune_config import BenchmarkConfig, ModelConfig
from sweeps.finetune.model import load_model
from sweeps.finetune.validation import evaluate_model

TESTS = {
    "math": ("gsm8k", "eval/gsm8k/test.jsonl", "accuracy"),
    "code": ("mbpp", "eval/mbpp/mbpp.jsonl", "pass@1"),
    "general": ("mmlu", "eval/mmlu/test", "accuracy"),
}


def main(study: Path, data: Path, items: int) -> None:
    """Write one CSV row per domain and model."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["domain", "model", "trial", "n", "metric", "value", "se", "bits_per_byte"])
    torch.set_num_threads(1)
    for domain, (name, test, metric) in TESTS.items():
        keys = json.loads((study / domain / "test_scores.json").read_text())["keys"]
        folders = {"base": data / "models/stories260K"}
        folders |= {role: study / domain / "trials" / keys[role] / "model" for role in keys}
        benchmark = BenchmarkConfig(
            name=name,
            validation=str(data / test),
            test=str(data / test),
            test_limit=items,
            sandbox="rlimits" if name == "mbpp" else None,
        )
        for role, folder in folders.items():
            loaded = load_model(ModelConfig(path=str(folder)), torch.device("cpu"))
            result = evaluate_model(*loaded, [benchmark])[name]
            error, bits = f"{result.standard_error:.4f}", f"{result.metrics['bits_per_byte']:.4f}"
            row = [domain, role, keys.get(role, "-"), result.n, metric, f"{result.score:.4f}"]
            table.writerow([*row, error, bits])
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
