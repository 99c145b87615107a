"""The sweeps of other tools in docs/coming_from.md, as written for ours, are valid and planned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.config.load import parse_config, read_yaml
from sweeps.storage.errors import UserError

Tree = dict[str, Any]
PAGE = (Path(__file__).parents[3] / "docs" / "coming_from.md").read_text(encoding="utf-8")
BLOCKS = [read_yaml(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)]
THEIRS, OURS = BLOCKS[::2], BLOCKS[1::2]


@pytest.mark.parametrize(("ours", "trials"), list(zip(OURS, [40, 12, 60], strict=True)))
def test_each_of_ours_is_valid_and_planned(sweep_files: Path, ours: Tree, trials: int) -> None:
    tree = {**json.loads((sweep_files / "sweep.yaml").read_text()), **ours}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree))
    valid = CliRunner().invoke(app, ["validate", "sweep.yaml"])
    assert valid.exit_code == 0, valid.output
    planned = CliRunner().invoke(app, ["plan", "sweep.yaml"])
    assert planned.exit_code == 0, planned.output
    total = trials * ours["search"].get("replicates", 1)
    assert f"sums: {total} trials, {total} to run" in planned.stdout
    for name in ours["space"]:
        assert f"  {name}: " in planned.stdout


@pytest.mark.parametrize("theirs", THEIRS)
def test_theirs_are_refused_with_our_words(tree: Tree, theirs: Tree) -> None:
    with pytest.raises(UserError, match="did you mean 'space'"):
        parse_config({**tree, "parameters": theirs["parameters"]})
    with pytest.raises(UserError, match="did you mean"):
        parse_config({**tree, "space": {**tree["space"], **theirs["parameters"]}})
