"""What the package drags in, and the example that shows its use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement: str) -> set[str]:
    printed = python(
        "-c", f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    )
    return {name.partition(".")[0] for name in json.loads(printed.splitlines()[-1])}


def test_import_needs_torch_and_the_standard_library_alone() -> None:
    more = modules_after("import gmt_core") - modules_after("import torch") - {"gmt_core"}
    assert more <= set(sys.stdlib_module_names)


def test_plain_pytorch_example_runs() -> None:
    printed = python("examples/plain_pytorch.py", "--mask-ratio", "0.3", "--updates", "150")
    assert "update 100: 70." in printed
    assert float(printed.split()[-1]) < 0.5  # the untrained network is at about 1
