"""What a person sees: MLflow's page behind the published link."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sweeps.tracking.mlflow_tracker import MlflowTracker
from sweeps.tracking.tracker import StudyInfo, TrialInfo

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium"),
]
STUDY = StudyInfo("s", "mini", "math", "domain: math\n", "abc", "note", {"trials": "4"})


def page(address: str, profile: Path, width: int, height: int = 1600) -> str:
    """The page's elements once its scripts have run."""
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        "--virtual-time-budget=40000",
        "--dump-dom",
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=True)
    return done.stdout


def test_the_published_link_opens_on_the_charts_of_the_trials(server: str, tmp_path: Path) -> None:
    tracker = MlflowTracker(server)
    tracker.begin_study(STUDY)
    for number in range(4):
        ratio = 0.2 * number
        point = {"mask_ratio": ratio, "learning_rate": 1e-3, "accumulation_interval": 1}
        name = f"mask {ratio:.2f}"
        tracker.begin_trial(TrialInfo(f"t{number}", number, point, 0, name=name))
        tracker.end_trial(f"t{number}", "finished", {"final/score": 0.5 + ratio / 10})
    tracker.end_study("finished", [], {"final/score": 0.56})
    (link,) = tracker.links().values()
    shown = page(link, tmp_path / "profile", 1600)
    for text in ("0: mask 0.00", "3: mask 0.60", "mask_ratio", "final/score"):
        assert text in shown, text
    # Plotly draws parallel coordinates and scatter plots under these names.
    for element in ("parcoords", "scatterlayer"):
        assert element in shown, element
