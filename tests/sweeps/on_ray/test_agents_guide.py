"""docs/agents.md, followed word for word: a program reads nothing but the documents."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sweeps.cli.answer import schema_of
from sweeps.cli.app import COMMANDS
from sweeps.config.load import load_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
BLOCK = re.compile(r"^ *```sh\n(.*?)^ *```", re.M | re.S)


def ask(line: str, folder: Path, root: Path) -> dict[str, Any]:
    """The document of a command that must succeed."""
    python, _, _, command, *rest = shlex.split(line)
    assert python == "python"
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", command, *rest],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (document,) = map(json.loads, done.stdout.splitlines())
    functions = {name: each for panel in COMMANDS.values() for name, each in panel.items()}
    jsonschema.validate(document, schema_of(functions[command]))
    assert document["error"] is None
    return dict(document)


def test_the_guide_leads_to_a_finished_sweep(tmp_path: Path, root: Path) -> None:
    guide = (root / "docs" / "agents.md").read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(guide) for line in block.split("\n") if line.strip()]
    found = {shlex.split(line)[3]: ask(line, tmp_path, root) for line in lines}
    assert load_config(tmp_path / found["init"]["result"]).name == "first"
    assert shlex.split(found["init"]["next"][0])[3:] == ["validate", "first.yaml"]
    assert found["validate"]["result"]["trials"] == 2
    assert found["plan"]["next"][0] == found["validate"]["next"][0]
    assert f"{found['plan']['next'][0]} --json" in [line.strip() for line in lines]
    ended = found["run"]["result"]["domains"]["math"]
    assert ended["reached"] and Path(ended["report"]).is_file()
    assert found["status"]["result"]["state"] == "complete"
    board = found["leaderboard"]["result"]["math"]
    assert [row["state"] for row in board].count("finished") >= 1
    assert board[0] == ended["best"]
    exported = found["export"]["result"]["math"]
    assert (tmp_path / exported["model"] / "config.json").is_file()
    assert (tmp_path / exported["config"]).is_file()
