"""The notebook runs as it stands."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest


@pytest.mark.slow
def test_quickstart(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    notebook = nbformat.read(root / "examples" / "quickstart.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    assert outputs["table"][0].data["text/html"].count("finished") == 4
    assert any("image/png" in each.get("data", {}) for each in outputs["curves"])
    assert "mask_ratio:" in outputs["config"][0].text
