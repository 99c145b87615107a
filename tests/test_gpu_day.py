"""tools/gpu_day.sh, which shows the project on a machine's first GPU, runs dry on a CPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import gpu_day
import pytest
import torch
from gpu_day import Outcome, Stage


def gpu_day_sh(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "tools" / "gpu_day.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_stage_runs_dry(root: Path, tmp_path: Path) -> None:
    done = gpu_day_sh(root, "--dry", "--out", str(tmp_path))
    record = (tmp_path / "README.md").read_text()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| gpu_tests | skipped: no GPU | 0 |" in record
    assert "| real_weights | skipped: no --model and --rows | 0 |" in record
    for stage in ("mask_10m", "train_10m", "finetune", "mini_sweep", "trl"):
        assert f"| {stage} | passed |" in record
    assert "masker_share_of_sft" in (tmp_path / "train_10m.csv").read_text()
    assert (tmp_path / "trl" / "summary.json").exists()


def test_what_is_absent_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stage = Stage("trl", (), ("json", "no_such_package"), "no weights")
    assert gpu_day.lacking(stage, dry=True) == "no no_such_package, no weights"
    assert gpu_day.lacking(stage, dry=False) == "no GPU"
    assert gpu_day.lacking(Stage("gpu_tests", ()), dry=True) == "no GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_day.lacking(Stage("gpu_tests", ()), dry=False) == ""


def test_a_stage_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(code: str) -> str:
        return gpu_day.run(Stage("stage", ("-c", code)), tmp_path / "log").how

    assert outcome("print('seen')") == "passed"
    assert (tmp_path / "log").read_text() == "seen\n"
    assert outcome("raise SystemExit(3)") == "failed"
    monkeypatch.setattr(gpu_day, "LIMIT_SECONDS", 0.2)
    assert outcome("import time; time.sleep(60)") == "took too long"


def test_the_record_has_a_row_per_stage() -> None:
    text = gpu_day.record([Outcome("trl", "skipped: no trl"), Outcome("a", "passed", 2.4)], "go")
    assert text.endswith("| trl | skipped: no trl | 0 |\n| a | passed | 2 |\n")
    assert "`go`" in text and f"- torch {torch.__version__}" in text
