"""The three 7B recipes end to end on a stand-in hub: only their sizes are overridden."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.stand_in_hub import serving
from tests.stand_in_recipes import write_bbh, write_hub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BENCHMARKS = {"math_mistral7b": 2, "code_deepseek6.7b": 4, "general_llama2_7b": 6}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A folder with BBH, and the environment of a process that uses the stand-in hub."""
    root = tmp_path_factory.mktemp("world")
    write_hub(root / "hub")
    write_bbh(root / "BIG-Bench-Hard")
    with serving(root / "hub") as (environment, _):
        yield root, {**os.environ, **environment, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def overrides(recipe: str, root: Path) -> list[str]:
    domain = recipe.partition("_")[0]
    limits = [
        f"domains.{domain}.benchmarks.{number}.{limit}=2"
        for number in range(BENCHMARKS[recipe])
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
        "evaluation.checks=2",
        "evaluation.check_limit=1",
        "search.trials=2",
        *limits,
    ]


def command(name: str, recipe: str, root: Path, environment: Mapping[str, str]) -> str:
    """What a command of the recipe prints; it must succeed."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", name, recipe, *overrides(recipe, root)],
        env=environment,
        capture_output=True,
        text=True,
    )
    print(f"{recipe} {name}: {time.perf_counter() - started:.1f} s\n{done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("recipe", BENCHMARKS)
def test_a_recipe_runs_end_to_end(
    recipe: str, world: tuple[Path, Mapping[str, str]], tmp_path: Path
) -> None:
    command("validate", recipe, *world)
    assert re.search(r"disk: up to 0\.\d+ GiB", command("plan", recipe, *world))
    command("run", recipe, *world)
