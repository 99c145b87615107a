"""The examples, each run as a user would, on a tiny model and rows made here."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.gmt_core.integrations.tiny import save_model, sums

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """In this process, since importing the libraries again would take longer than training."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("hf_trainer.py", [{"text": f"{q} {right}"} for q, right, _ in sums()]),
        ("trl_sft.py", [{"prompt": q, "completion": f" {right}"} for q, right, _ in sums()]),
        (
            "trl_dpo.py",
            [
                {"prompt": q, "chosen": f" {right}", "rejected": f" {wrong}"}
                for q, right, wrong in sums()
            ],
        ),
    ],
)
def test_statistics_are_in_the_log(
    name: str,
    rows: list[dict[str, str]],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    places = ["--model", folder, "--data", data, "--output", out]
    run(monkeypatch, name, *places, "--cpu", "--mask-ratio", 0.6, "--max-steps", 4)
    state = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text(encoding="utf-8"))
    logs = [row for row in state["log_history"] if "loss" in row]
    assert [row["step"] for row in logs] == [2, 4]
    assert all(row["gmt/kept_fraction"] == pytest.approx(0.4, abs=0.05) for row in logs)
    assert len(re.findall("gmt/kept_fraction", capsys.readouterr().out)) == 2
    assert state["stateful_callbacks"]["gmt_core.masker"]["update"] == 4
    assert (out / "model.safetensors").is_file()


def test_fsdp2_on_two_processes(folder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"text": f"{q} {right}"} for q, right, _ in sums()])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--model", folder, "--data", data, "--output", tmp_path / "out", "--cpu"]
    options += ["--updates", 3, "--mask-ratio", 0.6]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(EXAMPLES / "fsdp2.py"), *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = [float(share) for share in re.findall(r"update \d: ([\d.]+)% of the grad", done.stdout)]
    assert kept == pytest.approx([40, 40, 40], abs=2)
    before = AutoModelForCausalLM.from_pretrained(folder)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert all(p.shape == q.shape and not torch.equal(p, q) for p, q in pairs)
