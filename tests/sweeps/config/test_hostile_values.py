"""Whatever a key is given, it is taken or refused by one sentence that names the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.config.validation_errors import _paths
from sweeps.storage.errors import UserError

PATHS = [path.replace("NAME", "sums") for path in dict.fromkeys(_paths(SweepConfig))]
VALUES = [
    *("null", "true", "[]", "{}", "''", "x", "-1", "1e400", ".nan", "-.inf", "[null]", "[{}]"),
    *("9999999999999999999999", "~nouser/x", "{low: 1, high: 0}", "2026-01-01", "&a [*a]"),
    *('"\\0"', '"\\ud800"', "0x" + "f" * 5000, "tune.choice(", "a" * 300),
]


def said(file: Path, *overrides: str) -> str:
    """What is said of overrides; empty where they are taken."""
    try:
        resolve_paths(load_config(file, overrides))
    except UserError as error:
        return str(error)
    return ""


def assert_a_sentence(text: str) -> None:
    assert "\n" not in text
    assert len(text) < 1000
    for noise in ("Input should", "pydantic", "validation error", "Traceback", "Tuple should"):
        assert noise not in text


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_every_key_takes_or_refuses_a_value(sweep_files: Path, value: str) -> None:
    refused = 0
    for path in PATHS:
        if text := said(sweep_files / "sweep.yaml", f"{path}={value}"):
            refused += 1
            assert_a_sentence(text)
            assert path.partition(".")[0].split("_")[0] in text
    assert refused > len(PATHS) / 4


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists))
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_any_value_of_a_parameter(sweep_files: Path, value: object) -> None:
    for name in ("mask_ratio", "learning_rate", "accumulation_interval"):
        text = said(sweep_files / "sweep.yaml", f"space.{name}={json.dumps(value)}")
        assert_a_sentence(text)
        assert not text or name in text or "override" in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.scheduler=asha", "search.scheduler: expected keys with values, such as {name: "),
        ("search.objectives=score", "search.objectives: expected a list, such as [score]"),
        ("search.start={mask_ratio: 0.0}", "expected a list, such as [{mask_ratio: 0.0}]"),
        ("domains.sums.benchmarks=exact_match", "a list, such as [{name: exact_match}]"),
        ("domains.sums.benchmarks=[exact_match]", "benchmarks.0: expected keys with values, such"),
        ("model=mini:model", "model: expected keys with values, such as {path: 'mini:model'}"),
        ("keep=all", "keep: expected keys with values, such as {models: all}"),
        ("training=x", "training: expected keys with values (examples, batch, "),
        ("name=2026-01-01", "name: expected text in quotes: '2026-01-01'"),
        ("name=a/b", "name: expected a letter or digit, then up to 63 letters"),
        (
            "search.trials=1e2",
            "search.trials: expected a whole number, for example 100, got '1e2'",
        ),
        ("search.trials=true", "search.trials: expected no boolean"),
        ("seed=99999999999999999999999", "seed: expected a number below 2^63"),
        ("training.weight_decay=.inf", "training.weight_decay: expected a finite number, got inf"),
        ("space.mask_ratio={low: 0, high: .nan}", "space.mask_ratio.high: expected a finite"),
        ("space.mask_ratio={low: 0, high: 0.9, step: 1.0e-300}", "more than 1,000,000 values"),
        ("space.mask_ratio={min: 0, max: 0.9}", "did you mean {low: 0, high: 0.9}?"),
        ("space.mask_ratio={low: 0, hihg: 0.9}", "unknown key 'hihg' (did you mean 'high'?)"),
        ("space.learning_rate={values: [0.1, 0.2]}", "did you mean [0.1, 0.2]?"),
        (
            "space.learning_rate={distribution: log_uniform_values, min: 0.001, max: 0.1}",
            "did you mean {low: 0.001, high: 0.1, log: true}?",
        ),
        (
            "space.learning_rate=tune.loguniform(1e-3, 0.1)",
            "did you mean {low: 0.001, high: 0.1, log: true}?",
        ),
        (
            "space.mask_ratio=tune.quniform(0, 0.9, 0.1)",
            "did you mean {low: 0, high: 0.9, step: 0.1}?",
        ),
        (
            "space.mask_ratio=trial.suggest_float('m', 0.1, 0.9, step=0.1)",
            "did you mean {low: 0.1, high: 0.9, step: 0.1}?",
        ),
        ("space.mask_ratio=tune.grid_search([0.1, 0.2])", "did you mean [0.1, 0.2]?"),
        ("space.mask_ratio=os.system('x')", "got os.system('x')"),
        (
            "space.accumulation_interval=.inf",
            "accumulation_interval: expected a whole number",
        ),
        ("data_root=~nouser/x", "data_root: unknown home folder in '~nouser/x'"),
        (
            "domains.sums.data.path=a.jsonl,~nouser/x",
            "domains.sums.data.path: unknown home folder",
        ),
        ("domains.sums.benchmarks.0.test=~nouser/x", "benchmarks.0.test: unknown home folder"),
        ("storage=''", "storage: expected a path or a name"),
    ],
)
def test_what_is_refused_comes_with_the_right_form(
    sweep_files: Path, override: str, words: str
) -> None:
    assert words in said(sweep_files / "sweep.yaml", override)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr=1", "'space.learning_rate'"),
        ("space.lr=1", "'learning_rate'"),
        ("training.learning_rate=1", "'space.learning_rate'"),
        ("num_samples=4", "'search.trials'"),
        ("search.n_trials=4", "'trials'"),
        ("trials=4", "'search.trials'"),
        ("training.gradient_accumulation_steps=4", "'space.accumulation_interval'"),
        ("training.batch_size=8", "'training.batch.mini_batch'"),
        ("training.batch.batch_size=8", "'mini_batch'"),
        ("parameters={lr: {distribution: uniform}}", "'space'"),
        ("metric={name: score, goal: maximize}", "'search.objectives'"),
        ("method=bayes", "'training.method' or 'space.method'"),
        ("training.max_grad_norm=1", "'clip_norm'"),
        ("domains.sums.tasks=[x]", "'benchmarks'"),
        ("domains.sums.data.max_seq_length=8", "'max_length'"),
        ("model.model_name_or_path=x", "'model.path'"),
        ("domains.sums.dataset=x", "'domains.NAME.data.path'"),
        ("resources.max_concurrent_trials=2", "'concurrency'"),
    ],
)
def test_keys_of_neighbouring_tools_get_the_name_of_ours(
    sweep_files: Path, theirs: str, ours: str
) -> None:
    assert f"(did you mean {ours}?)" in said(sweep_files / "sweep.yaml", theirs)


def test_a_number_without_a_point_is_a_number(sweep_files: Path) -> None:
    config = load_config(sweep_files / "sweep.yaml", ["space.learning_rate=1e-3"])
    assert config.space.learning_rate.values() == (0.001,)


def test_a_grid_that_no_memory_holds_is_refused(sweep_files: Path) -> None:
    fine = "{low: 0, high: 0.9, step: 0.001}"
    text = said(
        sweep_files / "sweep.yaml",
        "search.sampler=grid",
        f"space.mask_ratio={fine}",
        "space.learning_rate={low: 0.001, high: 1, step: 0.001}",
    )
    assert "the grid has 1,802,000 points: expected at most 1,000,000" in text


def test_home_is_expanded_in_every_path(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load_config(sweep_files / "sweep.yaml", ["data_root=~/data", "storage=~/runs"])
    found = resolve_paths(config)
    assert found.domains["sums"].data.path == "/home/somebody/data/train.jsonl"
    assert found.domains["sums"].benchmarks[0].test == "/home/somebody/data/test.jsonl"
    assert found.storage == "/home/somebody/runs"
    apart = ["domains.sums.data.path=~/a.jsonl,~/b.jsonl", "model.path=~/model"]
    found = resolve_paths(load_config(sweep_files / "sweep.yaml", apart))
    assert found.domains["sums"].data.path == "/home/somebody/a.jsonl,/home/somebody/b.jsonl"
    assert found.model.path == "/home/somebody/model"
