"""The example of eight arms through the whole chain, on a real Ray, made smaller."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sweeps.config.load import parse_config
from sweeps.execution.sweep import run
from tests.sweeps.memory_tracker import MemoryTracker
from tests.sweeps.on_ray.mini_sweeps import benchmark

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def test_eight_arms_are_tuned_trained_tested_and_reported(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "examples" / "methods_mini.yaml").read_text())
    tree |= {"storage": str(tmp_path)}
    tree["training"]["examples"] = 64
    tree["study"]["seeds"] = 2
    tree["domains"]["math"]["benchmarks"] = [benchmark()]
    study = run(parse_config(tree), tracker=MemoryTracker()).domains["math"]
    assert {row.state for row in study.rows} == {"finished"}
    tuning = [row for row in study.rows if row.stage == "tuning"]
    rates = {
        m: {r.learning_rate for r in tuning if r.method == m} for m in {r.method for r in tuning}
    }
    assert rates.pop("lora") == {1e-2, 3e-2}
    assert set(rates) == {"sft", "hft", "random", "gmt", "shira"}
    ends = {row.method: row for row in study.rows if row.stage == "replicate"}
    assert set(ends) == {"pretrained", "drop_trivial", "lora", "dare", *rates}
    assert all("forgetting/bits_per_byte" in row.metrics for row in ends.values())
    shares = {m: r.metrics["cost/trained_share"] for m, r in ends.items() if m in rates}
    assert shares["sft"] == 1.0
    assert shares["shira"] == pytest.approx(0.02)
    assert len(study.test_scores.entries) == 1 + 8 * 2
    html = study.report.html.read_text()
    for shown in (
        "LoRA",
        "SHiRA 0.98",
        "DARE 0.9",
        "peak memory, GiB",
        "forgetting, bits per byte",
    ):
        assert f"{shown}</t" in html
