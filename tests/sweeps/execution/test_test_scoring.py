"""What is scored on the test items is asked as its run was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.execution.job_messages import Scored, ScoringJob
from sweeps.execution.test_scoring import score_model
from sweeps.finetune.finetune_config import ModelConfig
from tests.sweeps.finetune.tiny import config, save_world


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
