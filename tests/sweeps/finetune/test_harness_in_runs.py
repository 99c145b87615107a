"""Tasks of the harness in a run and in a sweep's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from sweeps.config.load import parse_config
from sweeps.config.path_types import resolve_benchmark
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution.preflight import check_inputs
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.finetune.loop import finetune
from sweeps.finetune.run_identity import run_identity
from sweeps.storage.errors import UserError
from tests.evaluators.harness_tasks import DOCUMENTS, TASKS, write_task
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import MemoryReporter, config
from tests.sweeps.on_ray.mini_sweeps import data, tree

pytest.importorskip("lm_eval", reason="lm-eval is not installed")
# What the harness's dependencies warn about is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A task of 40 documents that are short enough for the tiny model."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    rows = [{**DOCUMENTS["arc"][n % 7], "id": f"q{n}", "question": f"{n}+1?"} for n in range(40)]
    monkeypatch.setitem(DOCUMENTS, "many", rows)
    monkeypatch.setitem(TASKS, "many", ("arc/arc_easy.yaml", {}))
    return f"lm_eval:{write_task('many', tmp_path)}"


def evaluation(task: str) -> dict[str, Any]:
    return {"checks": 1, "benchmarks": [{"name": task, "limit": 5, "metric": "acc_norm"}]}


def train(world: Path, folder: Path, task: str) -> None:
    """On one rank: the final metrics of a run, in a file."""
    batch = {"fixed": "global_batch", "global_batch": 8}
    run = config(world, batch=batch, evaluation=evaluation(task), examples=16)
    reporter = MemoryReporter()
    result = finetune(run, folder / f"run{dist.get_world_size()}", reporter)
    metrics = {key: value for key, value in result.metrics.items() if key.startswith("eval/")}
    out = {"score": result.score, "metrics": metrics}
    (folder / f"of{dist.get_world_size()}.{dist.get_rank()}.json").write_text(json.dumps(out))


def test_a_run_is_validated_on_a_task_shared_over_its_workers(
    world: Path, tmp_path: Path, task: str
) -> None:
    for size in (1, 2):
        run_ranks(train, size, tmp_path, world, tmp_path, task)
    alone, first, second = (
        json.loads((tmp_path / name).read_text())
        for name in ("of1.0.json", "of2.0.json", "of2.1.json")
    )
    assert first == second
    assert first["score"] == pytest.approx(alone["score"])
    assert alone["metrics"].keys() >= {
        f"eval/lm_eval:ours_many/{name}" for name in ("acc", "acc_norm", "bits_per_byte")
    }


def test_a_task_needs_no_files_and_its_yaml_is_found_below_the_root(tmp_path: Path) -> None:
    named = BenchmarkConfig(name="lm_eval:arc_easy", limit=100)
    assert resolve_benchmark(named, tmp_path) == named
    own = resolve_benchmark(BenchmarkConfig.model_validate({"name": "lm_eval:own.yaml"}), tmp_path)
    assert own.name == f"lm_eval:{tmp_path / 'own.yaml'}"
    assert own.validation == own.test == str(tmp_path / "own.yaml")
    assert BenchmarkConfig.model_validate(own.model_dump()) == own
    with pytest.raises(ValueError, match=r"has its own data, expected no test: a\.jsonl"):
        BenchmarkConfig.model_validate({"name": "lm_eval:arc_easy", "test": "a.jsonl"})


def test_what_is_changed_identifies_a_run(world: Path) -> None:
    before = config(world).model_dump()
    found = [run_identity(config(world))]
    for change in ({"temperature": 0.5}, {"shots": 2}, {"system_prompt": "Be brief."}):
        benchmark = {**before["evaluation"]["benchmarks"][0], **change}
        found.append(run_identity(config(world, evaluation={"benchmarks": [benchmark]})))
    assert all(found.count(each) == 1 for each in found)
    with pytest.raises(ValueError, match=r"top_p: expected a number from 0 to 1, found 2"):
        BenchmarkConfig(name="gsm8k", validation="a", test="b", top_p=2)


def test_a_sweep_says_what_a_task_lacks(tmp_path: Path, task: str) -> None:
    def checked(name: str, **changes: object) -> None:
        benchmarks = [{"name": name, "limit": 4, **changes}]
        domains = {"science": {"data": data(), "benchmarks": benchmarks}}
        check_inputs(resolve_paths(parse_config(tree(tmp_path, domains=domains))))

    checked(task)
    with pytest.raises(UserError, match=r"domain 'science'.*lm-eval has no such task.*'arc_easy'"):
        checked("lm_eval:arc_eazy")
    with pytest.raises(UserError, match=r"domain 'science'.*one of acc, acc_norm, bits_per_byte"):
        checked(task, metric="f1")
    with pytest.raises(UserError, match=r"lm_eval:ifeval (needs|cannot be used)"):
        checked("lm_eval:ifeval")
