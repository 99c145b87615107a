"""The recipes for GPUs end to end on a stand-in hub: only their sizes are overridden."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweeps.config.load import load_config
from tests.stand_in_hub import serving
from tests.stand_in_recipes import write_bbh, write_hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONFIGS = Path(__file__).parents[3] / "sweeps" / "configs"
MODELS = {
    "first_gpu": "SmolLM2",
    "math_mistral7b": "Mistral",
    "code_deepseek6.7b": "coder",
    "general_llama2_7b": "Llama",
}
COUNTED = ("bad_rows", "held_out", "truncated")
RECIPES = {
    "first_gpu": (0, 6, 0),
    "math_mistral7b": (0, 10, 1),
    "code_deepseek6.7b": (1, 0, 1),
    "general_llama2_7b": (4, 0, 1),
}
"""What happens to the rows, by recipe: `COUNTED`."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A folder with BBH, and the environment of a process that uses the stand-in hub."""
    root = tmp_path_factory.mktemp("world")
    write_hub(root / "hub")
    write_bbh(root / "BIG-Bench-Hard")
    with serving(root / "hub") as (environment, _):
        yield root, {**os.environ, **environment}


def domain_of(recipe: str) -> str:
    (domain,) = load_config(CONFIGS / f"{recipe}.yaml").domains
    return domain


def overrides(recipe: str, root: Path) -> list[str]:
    domain = domain_of(recipe)
    limits = [
        f"domains.{domain}.benchmarks.{number}.{limit}=2"
        for number in range(
            len(load_config(CONFIGS / f"{recipe}.yaml").domains[domain].benchmarks)
        )
        for limit in ("limit", "test_limit")
    ]
    return [
        f"storage={root / 'runs'}",
        f"data_root={root}",
        "resources.workers=2",
        "resources.gpus_per_worker=0",
        "resources.cpus_per_worker=1",
        "training.threads=1",
        "training.examples=32",
        "training.batch.mini_batch=1",
        "training.checkpoint_updates=1",
        "evaluation.checks=1",
        "search.trials=2",
        *limits,
    ]


def command(
    name: str, recipe: str, root: Path, environment: Mapping[str, str], *arguments: str
) -> str:
    """What a command of the recipe prints; it must succeed."""
    started, config = time.perf_counter(), CONFIGS / f"{recipe}.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", name, config, *arguments, *overrides(recipe, root)],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(f"{recipe} {name}: {time.perf_counter() - started:.1f} s\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_end_to_end(recipe: str, world: tuple[Path, Mapping[str, str]]) -> None:
    root, _ = world
    assert " is valid: 2 trials" in command("validate", recipe, *world)
    planned = command("plan", recipe, *world, "--samples-per-second", "10")
    assert re.search(r"memory: at least 0\.\d+ GiB", planned)
    assert re.search(r"disk: up to 0\.\d+ GiB", planned)
    client = root / "hub" / "client" / "hub"
    model = next(client.glob(f"models--*{MODELS[recipe]}*"))
    assert not list(model.rglob("*.safetensors"))  # sizes are known without the weights
    ran = command("run", recipe, *world)
    assert ran.count(" finished in ") == 2
    command("report", recipe, *world)
    command("export", recipe, *world, str(root / recipe))
    check_results(recipe, root)


def check_results(recipe: str, root: Path) -> None:
    """Every benchmark has a finite score, and what is wrong with rows is counted."""
    domain = domain_of(recipe)
    study = root / "runs" / recipe / domain
    results = [json.loads(file.read_text()) for file in study.glob("trials/*/result.json")]
    assert len(results) == 2
    for result in results:
        metrics = result["metrics"]
        assert {name: metrics[f"data/{name}"] for name in COUNTED} == dict(
            zip(COUNTED, RECIPES[recipe], strict=True)
        )
        assert all(map(math.isfinite, metrics.values()))
    tested = json.loads((study / "test_scores.json").read_text())["entries"]["best"]
    assert {name.partition("/")[0] for name in tested} == {
        each.name for each in load_config(CONFIGS / f"{recipe}.yaml").domains[domain].benchmarks
    }
    assert "mask ratio" in (study / "report" / "report.html").read_text().lower()
    folder = root / recipe / domain / "model"
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32
    card = (folder / "README.md").read_text()
    assert "trained as mixed_bfloat16" in card and "| test items of " in card
