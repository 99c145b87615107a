"""Everything that a machine's first GPU must show, in stages of at most four minutes.

    tools/gpu_day.sh --out benchmarks/records/DATE_gpu_day
    tools/gpu_day.sh --out FOLDER --model SmolLM2-135M --rows gsm8k/train.jsonl

The first stages need torch and transformers alone, the others an installed project. A stage that
lacks something is skipped, and the record says what. --dry runs each stage small, on a CPU too.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 240
PROJECT = ("ray", "mlflow", "optuna", "datasets")
# Without the project's settings, which need the plugins of its tests.
PYTEST = ("-m", "pytest", "-c", os.devnull, "--rootdir", ".", "--noconftest", "-q")
SHOWN = ("torch", "transformers", "triton", "trl", "ray")


@dataclass(frozen=True)
class Stage:
    """A command without Python's own name, the packages that it needs, and what else it lacks."""

    name: str
    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    lacks: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended: "passed", "failed", "took too long" or "skipped: REASON"."""

    stage: str
    how: str
    seconds: float = 0.0


def stages(out: Path, model: Path | None, rows: Path | None, *, dry: bool) -> Iterator[Stage]:
    """All stages, the cheapest first; small ones if `dry`."""
    yield Stage(
        "gpu_tests",
        (*PYTEST, "-m", "gpu", "tests/gmt_core/test_kernels.py"),
        ("pytest", "triton"),
    )
    # A dry run shows that each command works: the tests of the kernels need a GPU.
    few, folder = ("--rounds", "1" if dry else "3"), ("--out", str(out))
    masking = "benchmarks/masking.py"
    for shape in ("10m",) if dry else ("1b", "7b"):
        yield Stage(
            f"mask_{shape}", (masking, "gpu", "--model", shape, *few, *folder), ("triton",)
        )
    for shape in ("10m",) if dry else ("smollm2", "1b"):
        yield Stage(f"train_{shape}", (masking, "train", "--model", shape, *few, *folder))
    tiny = ("--shape", "tiny", "--length", "32", "--rows", "2", "--updates", "1", "--rounds", "1")
    speed = ("benchmarks/finetune_gpu.py", *folder, *(tiny if dry else ("--rounds", "2")))
    yield Stage("finetune", speed, PROJECT)
    trials = ("search.trials=2", "search.startup_trials=2", f"storage={out / 'runs'}")
    short = ("training.examples=64", "evaluation.check_limit=8") if dry else ()
    device = f"resources.gpus_per_worker={0 if dry else 0.5}"
    mini = ("-m", "sweeps", "run", "sweeps/configs/mini.yaml", device, *trials, *short)
    yield Stage("mini_sweep", mini, PROJECT)
    names = ("ours", "trl") if dry else ("ours", "ours_gmt", "transformers", "trl")
    peers = ("benchmarks/finetune_throughput.py", "--no-memory", "--trainers", *names)
    turns = ("--rounds", "1" if dry else "3", "--updates", "1" if dry else "4")
    yield Stage("trl", (*peers, *turns, "--folder", str(out / "trl")), (*PROJECT, "trl"))
    real = ("--model", str(model), "--gsm8k", str(rows), "--folder", str(out / "real_weights"))
    missing = "" if model is not None and rows is not None else "no --model and --rows"
    yield Stage("real_weights", (*peers, *turns, *real), (*PROJECT, "trl"), missing)


def lacking(stage: Stage, *, dry: bool) -> str:
    """What keeps a stage from running here; empty if nothing does."""
    if not torch.cuda.is_available() and (not dry or stage.name == "gpu_tests"):
        return "no GPU"
    absent = [f"no {name}" for name in stage.packages if find_spec(name) is None]
    return ", ".join([*absent, stage.lacks] if stage.lacks else absent)


def run(stage: Stage, log: Path) -> Outcome:
    """Run a stage with its output in `log`; it ends, with all its processes, at the limit."""
    started = time.monotonic()
    environment = {"HF_HUB_OFFLINE": "1", **os.environ}
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [sys.executable, *stage.command], cwd=ROOT, env=environment, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            how = "failed" if process.wait(LIMIT_SECONDS) else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            how = "took too long"
    return Outcome(stage.name, how, time.monotonic() - started)


def record(outcomes: list[Outcome], command: str) -> str:
    """The record's README: the machine, the command and how each stage ended."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    lines = [f"# {device}", "", f"`{command}`", "", *map(_version, SHOWN), ""]
    lines += ["| stage | outcome | seconds |", "|---|---|---|"]
    lines += [f"| {each.stage} | {each.how} | {each.seconds:.0f} |" for each in outcomes]
    return "\n".join(lines) + "\n"


def _version(package: str) -> str:
    try:
        return f"- {package} {version(package)}"
    except PackageNotFoundError:
        return f"- {package}: not installed"


def main() -> None:
    """Run the stages one after another; exit with 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the record's folder")
    parser.add_argument("--dry", action="store_true", help="small, also without a GPU")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages")
    parser.add_argument("--model", type=Path, help="a model's folder; with --rows")
    parser.add_argument("--rows", type=Path, help="the training rows of GSM8K")
    given = parser.parse_args()
    out, model, rows = (each and each.resolve() for each in (given.out, given.model, given.rows))
    out.mkdir(parents=True, exist_ok=True)
    found = list(stages(out, model, rows, dry=given.dry))
    names = [stage.name for stage in found]
    if unknown := set(given.only or ()) - set(names):
        parser.error(f"--only {' '.join(sorted(unknown))}: expected some of {', '.join(names)}")
    outcomes = []
    for stage in (each for each in found if not given.only or each.name in given.only):
        reason = lacking(stage, dry=given.dry)
        log = out / f"{stage.name}.log"
        outcomes.append(Outcome(stage.name, f"skipped: {reason}") if reason else run(stage, log))
        print(f"{stage.name}: {outcomes[-1].how} ({outcomes[-1].seconds:.0f} s)", flush=True)
        command = f"tools/gpu_day.sh {' '.join(sys.argv[1:])}"
        (out / "README.md").write_text(record(outcomes, command), encoding="utf-8")
    sys.exit(any(each.how in ("failed", "took too long") for each in outcomes))


if __name__ == "__main__":
    main()
