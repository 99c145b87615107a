"""What is scored on the test items is asked as its run was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.execution.test_scoring import score_model
from tests.sweeps.finetune.tiny import config, save_world


def test_the_model_s_own_rule_for_bos_holds_on_the_test_items(tmp_path: Path) -> None:
    world = save_world(tmp_path)
    (benchmark,) = config(world).evaluation.benchmarks
    asked = {**benchmark.model_dump(), "test": benchmark.validation}

    def items(add_bos: Any) -> Any:
        model = {"path": str(world / "model"), "add_bos": add_bos}
        return score_model(model, None, [asked], threads=1)["items"]

    assert items(True) == items("auto")  # this tokenizer adds BOS by itself
    assert items(False) != items("auto")
