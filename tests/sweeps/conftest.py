"""A small sweep as a tree of plain values, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

Tree = dict[str, Any]


@pytest.fixture
def tree() -> Tree:
    """One domain, the whole space; its files need not exist for it to be parsed."""
    return {
        "name": "small",
        "model": {"path": "mini:model"},
        "training": {"examples": 64, "batch": {"mini_batch": 8}},
        "search": {"trials": 3},
        "space": {
            "mask_ratio": {"low": 0.0, "high": 0.9, "step": 0.1},
            "accumulation_interval": [1, 2],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "domains": {
            "sums": {
                "data": {"path": "train.jsonl"},
                "benchmarks": [
                    {
                        "name": "exact_match",
                        "validation": "validation.jsonl",
                        "test": "test.jsonl",
                    }
                ],
            }
        },
    }


@pytest.fixture
def sweep_files(tmp_path: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the sweep's files, which is also the current one; `sweep.yaml` is valid."""
    items = [
        {"id": f"i{n}", "prompt": f"{n} + 1 =", "reference": f"{n + 1}", "answer": f"{n + 1}"}
        for n in range(4)
    ]
    rows = [{"prompt": item["prompt"], "response": item["reference"]} for item in items]
    for name, lines in (("train", rows), ("validation", items), ("test", items)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text)
    # JSON is YAML.
    (tmp_path / "sweep.yaml").write_text(json.dumps(tree))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["memory", "sqlite"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    """A real, empty study, in memory and in a sqlite file."""
    url = None if request.param == "memory" else f"sqlite:///{tmp_path / 'optuna.db'}"
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    request.addfinalizer(lambda: optuna.logging.set_verbosity(before))
    return optuna.create_study(study_name="small/sums", storage=url, direction="maximize")
