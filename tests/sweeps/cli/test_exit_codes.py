"""The exit code says whether the result was reached."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from sweeps.cli.app import app
from sweeps.execution.domain_result import DomainResult
from sweeps.execution.job_messages import Refused, Scored, ScoringJob
from sweeps.execution.paper import PaperResult
from sweeps.execution.sweep import StudyResult
from sweeps.execution.test_scoring import TestScores as Scores
from sweeps.execution.test_scoring import score_model
from sweeps.finetune.finetune_config import BenchmarkConfig, ModelConfig
from sweeps.report.trial_row import TrialRow
from sweeps.report.write_report import ReportPaths
from tests.sweeps.finetune.tiny import config, save_model, save_rows
from tests.sweeps.played import DIVERGED, FINISHED, OOM, play, trial_folders

SKIPPED = {"data/bad_rows": 3.0}
BEST = TrialRow(0, "000-abc", "finished", 0.3, 2, 1e-3, 0, 0.7, 4, 4, 1.0, SKIPPED)


def call(*words: str) -> Result:
    return CliRunner().invoke(app, [*words])


def ended(*domains: str, reached: tuple[str, ...], stopped: str = "") -> StudyResult:
    paths = ReportPaths(*[Path("report.html")] * len(ReportPaths.__dataclass_fields__))
    return StudyResult(
        {
            name: DomainResult(name, (), BEST if name in reached else None, Scores(), paths)
            for name in domains
        },
        stopped,
    )


@pytest.mark.parametrize("command", ["run", "resume", "retry"])
@pytest.mark.parametrize(
    ("result", "code"),
    [
        (ended("a", "b", reached=("a", "b")), 0),
        (ended("a", "b", reached=("a", "b"), stopped="the budget is spent"), 0),
        (ended("a", "b", reached=("a",)), 1),
        (ended("a", "b", reached=()), 1),
        (ended("a", reached=(), stopped="the budget is spent"), 1),
    ],
)
def test_a_sweep_without_a_finished_trial_in_every_domain(
    sweep_files: Path,
    tree: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    result: StudyResult,
    code: int,
) -> None:
    sweep = play(OOM)
    domains = {name: tree["domains"]["sums"] for name in ("a", "b", "sums")}
    for file in ("sweep.yaml", f"{sweep.storage}/small/sweep.yaml"):
        stored = tree | {"domains": domains, "storage": sweep.storage}
        Path(file).write_text(json.dumps(stored))
    monkeypatch.setattr("sweeps.execution.sweep.run", lambda *given, **options: result)
    options = ["--failed", "--run"] if command == "retry" else []
    done = call(command, "sweep.yaml", *options)
    assert done.exit_code == code, done.output
    names = ", ".join(result.unreached())
    said = f"error: domain {names}: no trial finished"
    assert (said in done.stderr) == bool(code)
    assert (f"status {sweep.storage}/small" in done.stderr) == bool(code)
    finished = len(result.domains) - len(result.unreached())
    assert done.stdout.count("  skipped 3 bad training rows (on_bad_row: skip)\n") == finished


@pytest.mark.parametrize(
    ("method", "said"),
    [([], ""), (["space.method=[sft,gmt]", "space.mask_ratio=[0.3]"], "method gmt, ")],
)
def test_the_best_score_names_the_method_where_it_varies(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch, method: list[str], said: str
) -> None:
    result = ended("sums", reached=("sums",))
    monkeypatch.setattr("sweeps.execution.sweep.run", lambda *given, **options: result)
    done = call("run", "sweep.yaml", *method)
    assert done.exit_code == 0, done.output
    assert f"best score 0.7000 on validation items with {said}mask_ratio 0.3" in done.stdout


def test_a_measurement_has_no_trials(sweep_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = DomainResult("sums", (), None, Scores(), ended("a", reached=()).domains["a"].report)
    measured = DomainResult(**{**vars(one), "measured": True})
    for result, code in ((one, 1), (measured, 0)):
        found = StudyResult({"sums": result})
        monkeypatch.setattr(
            "sweeps.execution.sweep.run", lambda *given, found=found, **options: found
        )
        done = call("run", "sweep.yaml", "study.kind=efficiency")
        assert done.exit_code == code, done.output
        assert "sums: no trial finished" not in done.stdout


@pytest.mark.parametrize(("unreached", "code"), [((), 0), ((("methods", "sums"),), 1)])
def test_a_paper(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch, unreached: Any, code: int
) -> None:
    result = PaperResult(Path("report.html"), "", unreached)
    monkeypatch.setattr("sweeps.execution.paper.run", lambda *given: result)
    done = call("paper", "sweep.yaml")
    assert done.exit_code == code, done.output
    assert ("domain sums (methods): no trial finished" in done.stderr) == bool(code)


@pytest.mark.parametrize("command", ["leaderboard", "report", "export"])
def test_a_domain_that_has_not_begun(
    sweep_files: Path, tree: dict[str, Any], command: str
) -> None:
    sweep = play(FINISHED)
    model = trial_folders(sweep)[0] / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    domains = {"sums": tree["domains"]["sums"], "later": tree["domains"]["sums"]}
    stored = json.dumps(tree | {"domains": domains, "storage": sweep.storage})
    (Path(sweep.storage) / "small" / "sweep.yaml").write_text(stored)
    target = ["out"] if command == "export" else []
    done = call(command, "sweep.yaml", *target)
    if command == "leaderboard":
        assert done.exit_code == 0, done.output
    else:
        assert done.exit_code == 1, done.output
        assert "error: domain later: its study has not started" in done.stderr
    stored = json.dumps(tree | {"domains": {"later": domains["later"]}, "storage": sweep.storage})
    (Path(sweep.storage) / "small" / "sweep.yaml").write_text(stored)
    nothing = call(command, "sweep.yaml", *(["none"] if target else []))
    assert nothing.exit_code == 1
    assert nothing.stderr.startswith("error: ")


def test_an_export_without_weights(sweep_files: Path) -> None:
    play(FINISHED)
    done = call("export", "sweep.yaml", "out")
    assert done.exit_code == 1
    assert "error: domain sums: no weights to export" in done.stderr
    assert (sweep_files / "out" / "sums" / "run.yaml").is_file()


def test_an_export_to_where_nothing_can_be_written(sweep_files: Path) -> None:
    play(FINISHED)
    done = call("export", "sweep.yaml", "sweep.yaml/out")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: sweep.yaml/out: cannot be written (Not a directory); give a folder that you can "
        "write to\n"
    )


def test_weights_that_are_not_finite_are_not_exported(sweep_files: Path) -> None:
    model = trial_folders(play(FINISHED, DIVERGED))[0] / "model"
    model.mkdir()
    for value, code in ((float("nan"), 2), (float("-inf"), 2), (1.0, 0)):
        weights = {"a": torch.zeros(2), "b": torch.tensor([0.0, value], dtype=torch.bfloat16)}
        save_file({**weights, "c": torch.ones(2, dtype=torch.int64)}, model / "model.safetensors")
        done = call("export", "sweep.yaml", "out")
        assert done.exit_code == code, done.output
        if code:
            assert "trial 0 was not exported because it diverged: b in model.saf" in done.stderr
            assert not (sweep_files / "out" / "sums").exists()


def test_a_model_that_is_not_finite_has_no_test_scores(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    folder = save_model(tmp_path / "model")
    row = {"id": "a", "prompt": "1+1=", "reference": "2", "answer": "2"}
    items = str(save_rows(tmp_path / "test.jsonl", [row, {**row, "id": "b"}]))
    benchmark = BenchmarkConfig(name="exact_match", validation=items, test=items)
    job = ScoringJob("key", ModelConfig(path=str(folder)), None, (benchmark,), 1)
    assert isinstance(score_model(job), Scored)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] = float("nan")
    model.save_pretrained(folder)
    said = score_model(job)
    assert isinstance(said, Refused)
    assert said.sentence.startswith(f"{folder} cannot be scored on the test items: some w")
    words = ["--benchmarks", "exact_match", "--data", f"exact_match={items}"]
    done = call("eval", str(folder), *words, "--device", "cpu", "--cache", str(tmp_path / "cache"))
    assert done.exit_code == 1
    assert "no score: some weights are NaN or infinite" in done.stderr


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("sweeps.execution.single_run.run_single", ["finetune", "run.yaml"]),
        (
            "sweeps.execution.evaluation_run.run",
            ["eval", "m", "--benchmarks", "gsm8k", "--data", "gsm8k=f"],
        ),
        ("sweeps.execution.sweep.run", ["run", "sweep.yaml"]),
        ("sweeps.execution.paper.run", ["paper", "sweep.yaml"]),
    ],
)
def test_sigterm_ends_like_ctrl_c(
    sweep_files: Path, monkeypatch: pytest.MonkeyPatch, function: str, words: list[str]
) -> None:
    def killed(*given: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    (sweep_files / "run.yaml").write_text(config(sweep_files).model_dump_json())
    monkeypatch.setattr(function, killed)
    done = call(*words)
    assert done.exit_code == 130
    assert "Stopped. " in done.output
