from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sweeps.config.sweep_config import DomainConfig
from sweeps.config.validation_errors import checked
from sweeps.finetune.finetune_config import BatchConfig, BatchError
from sweeps.finetune.method_options import MethodConfig
from sweeps.finetune.run_identity import run_identity
from sweeps.storage.errors import UserError
from tests.sweeps.finetune.tiny import config

HERE = Path("world")


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(1.0, "less than 1"), (-0.1, "greater than or equal to 0"), (1.5, "less than 1")],
)
def test_a_mask_ratio_outside_the_range_is_named(ratio: float, expected: str) -> None:
    with pytest.raises(UserError, match=f"mask_ratio: expected a number {expected}, got {ratio}"):
        checked(MethodConfig, "the run", {"mask_ratio": ratio})


@pytest.mark.parametrize("ratio", [float("nan"), float("inf")])
def test_a_mask_ratio_is_finite(ratio: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        MethodConfig(mask_ratio=ratio)


def test_sft_with_a_mask_ratio_is_refused() -> None:
    with pytest.raises(ValidationError, match="'sft' masks nothing"):
        MethodConfig(name="sft", mask_ratio=0.2)


@pytest.mark.parametrize("place", ["learning_rat", "method.mask_ration"])
def test_unknown_keys_are_refused(place: str) -> None:
    first, _, second = place.partition(".")
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        config(HERE, **{first: {second: 0.1} if second else 0.1})


@pytest.mark.parametrize("name", ["sft", "random", "hft", "shira", "lora"])
def test_other_methods_than_gmt_have_no_scope(name: str) -> None:
    with pytest.raises(
        ValidationError, match=f"scope 'global' .* of method 'gmt', got.* '{name}'"
    ):
        config(HERE, method={"name": name, "scope": "global"})


@pytest.mark.parametrize("rate", [0.0, -1e-3, float("nan")])
def test_the_learning_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValidationError, match="learning_rate"):
        config(HERE, learning_rate=rate)


@pytest.mark.parametrize("sizes", [{}, {"global_batch": 8}, {"mini_batch": 4, "global_batch": 8}])
def test_exactly_the_held_batch_size_is_given(sizes: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match=r"expected batch\.mini_batch and no other size"):
        BatchConfig(fixed="mini_batch", **sizes)


def test_examples_that_do_not_fill_whole_batches_are_named() -> None:
    run = config(HERE, examples=50)
    with pytest.raises(
        BatchError, match=r"effective batch 8 .* 2 x mini-batch 4 x workers 1.* 50"
    ):
        run.steps(1)


def test_a_global_batch_that_does_not_divide_is_named() -> None:
    batch = {"fixed": "global_batch", "global_batch": 10}
    run = config(HERE, batch=batch, accumulation_interval=2)
    with pytest.raises(BatchError, match=r"2 x 2 = 4, got 10"):
        run.micro_batch(2)
    with pytest.raises(BatchError, match=r"2 x 2 = 4, got 10"):
        run.effective_batch(2)


@pytest.mark.parametrize(
    ("batch", "workers", "expected"),
    [
        ({"mini_batch": 4}, 1, (4, 12, 4)),
        ({"mini_batch": 4}, 2, (4, 24, 2)),
        ({"fixed": "global_batch", "global_batch": 12}, 1, (4, 12, 4)),
        ({"fixed": "global_batch", "global_batch": 12}, 2, (2, 12, 4)),
    ],
)
def test_batch_sizes(batch: dict[str, Any], workers: int, expected: tuple[int, ...]) -> None:
    run = config(HERE, batch=batch, accumulation_interval=3, examples=48)
    sizes = run.micro_batch(workers), run.effective_batch(workers), run.steps(workers)
    assert sizes == expected


@pytest.mark.parametrize(
    ("data", "benchmark", "expected"),
    [
        ({"template": "chat"}, {}, "chat"),
        ({"template": "chat", "format": "metamathqa"}, {}, "chat"),
        ({"format": "metamathqa"}, {}, "metamath"),
        ({"format": "tulu_v2"}, {}, "tulu"),
        ({"format": "self_instruct"}, {}, "alpaca"),
        ({"format": "gsm8k"}, {}, None),
        ({}, {}, None),
        ({"template": "chat"}, {"prompt_format": "raw"}, "raw"),
        ({"template": "chat"}, {"name": "gsm8k", "preset": "table1"}, None),
    ],
)
def test_benchmarks_are_asked_as_the_rows_are_trained_on(
    data: dict[str, str], benchmark: dict[str, str], expected: str | None
) -> None:
    """Unless they have a format or a preset; in a run and in a domain of a sweep."""
    rows = {"path": "train.jsonl", **data}
    asked = {"name": "exact_match", "validation": "v", "test": "t", **benchmark}
    run = config(Path("w"), data=rows, evaluation={"benchmarks": [asked]})
    domain = DomainConfig.model_validate({"data": rows, "benchmarks": [asked]})
    assert run.evaluation.benchmarks == domain.benchmarks
    assert domain.benchmarks[0].prompt_format == expected
    assert run_identity(run)["evaluation"]["benchmarks"][0].get("prompt_format") == expected
    assert DomainConfig.model_validate(domain.model_dump()) == domain
