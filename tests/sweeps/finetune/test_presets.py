"""Protocols by preset in a run's config, and where their items come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evaluators.benchmark import Item
from evaluators.protocol import prompt_text
from sweeps.config.load import load_config
from sweeps.config.path_types import resolve_benchmark
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.preflight import check_inputs, different_runs
from sweeps.finetune.benchmarks import build_benchmark, build_benchmarks, check_test_source
from sweeps.finetune.finetune_config import BenchmarkConfig, EvaluationConfig
from sweeps.finetune.memory_check import memory_need
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache
from sweeps.finetune.validation import Validation
from sweeps.storage.errors import UserError
from tests.sweeps.finetune.tiny import save_model, save_rows

CONFIGS = Path(__file__).parents[3] / "sweeps" / "configs"
REAL = ("math_mistral7b", "code_deepseek6.7b", "general_llama2_7b")
RUN_CODE = ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus")


def benchmark(**changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate(
        {"name": "gsm8k", "validation": "train.jsonl", "test": "test.jsonl", **changes}
    )


def shipped(name: str) -> SweepConfig:
    return load_config(CONFIGS / f"{name}.yaml")


def test_the_shipped_configs_score_the_ten_benchmarks_as_the_tables_do() -> None:
    parsed = [each for name in REAL for domain in shipped(name).domains.values()
              for each in domain.benchmarks]  # fmt: skip
    assert len({each.name for each in parsed}) == 10
    for each in parsed:
        level = "rlimits" if each.name in RUN_CODE else None
        built = build_benchmark(each.model_copy(update={"sandbox": level}))
        rules = built.protocol()["rules"]
        assert isinstance(rules, dict)
        assert each.preset in ("table1", "table2")
        assert rules["metric"] == ("pass@10" if each == parsed[-1] else built.metric)


@pytest.mark.parametrize(
    ("name", "parameters", "gibibytes"),
    [
        ("math_mistral7b", 7_241_732_096, 37.6),
        ("code_deepseek6.7b", 6_740_512_768, 36.5),
        ("general_llama2_7b", 6_738_415_616, 35.5),
    ],
)
def test_a_recipe_fits_a_node_of_eight_gpus(name: str, parameters: int, gibibytes: float) -> None:
    """Weights and moments in eight shards, a whole float32 gradient, one micro-batch. The host
    holds the model that rank 0 loads, and a checkpoint while it is written."""
    config, facts = shipped(name), {"num_hidden_layers": 32, "hidden_size": 4096}
    needs = [
        memory_need(run, facts, parameters, config.resources.workers, "cuda")
        for domain in config.domains
        for run in different_runs(config, domain)
    ]
    assert {round(need.total / 2**30, 1) for need in needs} == {gibibytes}
    assert all(need.on_machine(8) == (4 + 12) * parameters for need in needs)


def test_a_preset_chooses_the_protocol_of_the_validation_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"What is {n}+1?", "answer": f"It is.\n#### {n + 1}"} for n in range(210)]
    train = str(save_rows(tmp_path / "train.jsonl", rows))
    seen: list[Item] = []

    def scored(lm: Any, built: Any, items: list[Item], **_: Any) -> Any:
        seen.extend(items)
        raise KeyboardInterrupt

    monkeypatch.setattr("sweeps.finetune.validation.evaluate", scored)
    monkeypatch.setattr("sweeps.finetune.validation.LanguageModel", lambda *_, **__: None)
    cache, prompts = Cache(), []
    for preset in (None, "table1", "table2"):
        config = benchmark(validation=train, preset=preset)
        validation = Validation(EvaluationConfig(benchmarks=(config,)), Group(), cache)
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            validation.check(None, None, final=True)
        assert 0 < len(seen) < len(rows)  # the held-out questions of the training file
        prompts.append(seen[0].prompt)
    assert prompts[0].startswith("Question: What is")
    assert prompts[1].startswith("Below is an instruction")
    assert prompts[2].startswith(prompt_text("gsm8k_cot_8_shot.txt"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "math", "preset": "table2"}, "'math': Unknown preset of math 'table2'.*table1"),
        ({"name": "gsm9k"}, "'gsm9k': Unknown benchmark.*mean 'gsm8k'"),
        ({"name": "exact_match", "preset": "full"}, "'exact_match'.*one protocol"),
        ({"metric": "acuracy"}, "'gsm8k': Unknown metric of gsm8k 'acuracy'"),
    ],
)
def test_what_a_benchmark_does_not_have_is_named(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_benchmark(benchmark(**changes))


def test_limits_of_programs_come_from_the_run() -> None:
    changes = {"sandbox": "rlimits", "timeout": 9, "memory_mb": 1024, "packages": ["yaml"]}
    built = build_benchmark(benchmark(name="humaneval", **changes))
    limits = {"timeout": 9.0, "memory_mb": 1024, "inside": False, "packages": ("yaml",)}
    assert built.protocol()["limits"] == limits
    with pytest.raises(ValueError, match="gsm8k runs no generated code; expected no sandbox, ti"):
        build_benchmark(benchmark(timeout=9))
    with pytest.raises(ValueError, match=r"'humaneval': timeout: expected 0\.1 to 3600 seconds"):
        build_benchmark(benchmark(name="humaneval", timeout=0))


def test_two_benchmarks_need_two_names(tmp_path: Path) -> None:
    own = "name: sums\nversion: '1'\nform: exact_match\nprompt: '{q}'\nanswer: '{a}'\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(own)
    configs = [benchmark(name=str(tmp_path / f"{name}.yaml")) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"different names, found 'sums' for both; change 'name'"):
        build_benchmarks(configs)


def test_a_misspelt_preset_gets_the_nearest_one() -> None:
    place = "domains.math.benchmarks.0.preset"
    with pytest.raises(UserError, match=r"preset: unknown value 'tabel1' .*'table1'"):
        load_config(CONFIGS / "math_mistral7b.yaml", [f"{place}=tabel1"])


def test_hub_names_and_own_benchmarks_are_found_from_anywhere(tmp_path: Path) -> None:
    found = resolve_benchmark(
        benchmark(name="own/capitals.yaml", validation="hub:a/b@v1", test="items/test.jsonl"),
        tmp_path,
    )
    assert found.name == str(tmp_path / "own" / "capitals.yaml")
    assert (found.validation, found.test) == ("hub:a/b@v1", str(tmp_path / "items/test.jsonl"))
    assert resolve_benchmark(benchmark(), tmp_path).name == "gsm8k"


def test_test_items_are_looked_for_but_not_read(tmp_path: Path) -> None:
    def check(**places: str) -> None:
        config = benchmark(**places)
        check_test_source(config, build_benchmark(config))

    (tmp_path / "test.jsonl").touch()
    check(test=str(tmp_path / "test.jsonl"))
    check(test="hub:openai/gsm8k@main", validation="hub:openai/gsm8k@main")
    with pytest.raises(
        ValueError, match=r"gone.jsonl: no such file.*reads the test items of benchmark 'gsm8k'"
    ):
        check(test=str(tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match="expected hub:owner/name@revision, revision included"):
        check(test="hub:openai/gsm8k")
    with pytest.raises(ValueError, match="'gsm8k': expected two files for validation and test"):
        check(test="items.jsonl", validation="items.jsonl")
    same = str(tmp_path / "test.jsonl")
    check(name="truthfulqa_mc2", test=same, validation=same)  # split by a hash


def test_what_cannot_be_fetched_offline_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = str(save_model(tmp_path / "model"))
    own = [f"model.path={model}", "model.revision=null", "domains.math.data.max_length=32"]
    own += ["resources.gpus_per_worker=0", "domains.math.data.decontaminate=null"]
    rows = [{"query": "1+1?", "response": "2", "original_question": "1+1?"}]
    data = str(save_rows(tmp_path / "rows.jsonl", rows))
    for overrides, said in (
        ([], "model.path mistralai/Mistral-7B-v0.1: there is no such folder, and the hub cannot"),
        (own, "meta-math/MetaMathQA"),
        (
            [*own, f"domains.math.data.path={data}", "domains.math.data.revision=null"],
            "hub:openai/gsm8k@e53f048856ff4f594e959d75785d2c2d37b678ee: split",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            check_inputs(resolve_paths(load_config(CONFIGS / "math_mistral7b.yaml", overrides)))
