"""What is scored on the test items is asked as its run was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sweeps.execution.job_messages import Scored, ScoringJob
from sweeps.execution.test_scoring import FILE, TestScores, score_model
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.report.trial_row import benchmark_entries
from tests.sweeps.finetune.tiny import config, save_world


def test_what_is_not_known_is_absent_from_the_record(tmp_path: Path) -> None:
    entries = benchmark_entries("sums", 0.5, math.nan, 1)
    TestScores({"best": "k0"}, {"best": entries}).write(tmp_path)
    json.loads((tmp_path / FILE).read_text(), parse_constant=lambda word: pytest.fail(word))
    assert TestScores.read(tmp_path).entries == {"best": {"sums/score": 0.5, "sums/n": 1.0}}


def test_the_model_s_own_rule_for_bos_holds_on_the_test_items(tmp_path: Path) -> None:
    world = save_world(tmp_path)
    (benchmark,) = config(world).evaluation.benchmarks
    asked = benchmark.model_copy(update={"test": benchmark.validation})

    def items(add_bos: Any) -> Any:
        model = ModelConfig(path=str(world / "model"), add_bos=add_bos)
        scored = score_model(ScoringJob("key", model, None, (asked,), threads=1))
        assert isinstance(scored, Scored)
        return scored.items

    assert items(True) == items("auto")  # this tokenizer adds BOS by itself
    assert items(False) != items("auto")
