"""What looks and starts nothing answers at once: without the libraries that take seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "{'torch', 'ray', 'transformers', 'datasets', 'scipy', 'sklearn', 'matplotlib', 'mlflow'}"
CONFIG = Path(__file__).parents[3] / "sweeps" / "configs" / "mini.yaml"


@pytest.mark.parametrize("command", ["validate", "status", "leaderboard", "stop"])
def test_no_heavy_library_is_imported(command: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from sweeps.cli.app import app\n"
        f"try: app([{command!r}, {str(CONFIG)!r}, 'storage={tmp_path}'])\n"
        "except SystemExit: pass\n"
        f"print('imported:', sorted({HEAVY} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1:] == ["imported: []"], found.stdout + found.stderr


def test_the_end_of_the_program_searches_no_cycles() -> None:
    """With torch and Ray in memory, that would take Python seconds after the last line."""
    program = (
        "import atexit, gc\n"
        "from sweeps.cli.app import main\n"
        "atexit.register(lambda: print(len(gc.get_objects())))\n"
        "main()"
    )
    command = [sys.executable, "-c", program, "--version"]
    found = subprocess.run(command, capture_output=True, text=True)
    version, objects = found.stdout.splitlines()
    assert version.startswith("gmt-sweep")
    assert int(objects) < 1000
