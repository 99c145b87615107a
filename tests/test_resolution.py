"""The pinned set resolves on ordinary machines: nothing is installed, the package index is asked.

What lies on one machine (a configuration file, a folder of wheels) must not decide: a local CPU
wheel of torch once hid that its ordinary Linux wheel wants another Triton than the pinned one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-apple-darwin")
GROUPS = {"run": (), "dev": ("--group", "dev", "--group", "build")}
KEPT = {"UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_INDEX_URL"}
"""Where a machine caches and which mirror of the index it asks; every other setting is ignored."""


def name_of(line: str) -> str:
    """A requirement's distribution name, normalised as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>\[; ]", line, maxsplit=1)[0]).lower()


def names(text: str) -> set[str]:
    lines = (line.strip() for line in text.splitlines())
    return {name_of(line) for line in lines if line and not line.startswith("#")}


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("UV_") or k in KEPT}
    return {**kept, "MACOSX_DEPLOYMENT_TARGET": "14.0"}  # what torch's wheels for macOS ask for


def resolve(group: str, python: str, platform: str) -> subprocess.CompletedProcess[str]:
    asked = ["--python-version", python, "--python-platform", platform, *GROUPS[group]]
    plain = ["--no-config", "--no-annotate", "--no-header", "--constraint", "constraints.txt"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *plain, *asked, "pyproject.toml"]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def resolutions() -> Iterator[dict[tuple[str, ...], Future[subprocess.CompletedProcess[str]]]]:
    """All of them side by side: each mostly waits for the index."""
    with ThreadPoolExecutor(8) as pool:
        yield {case: pool.submit(resolve, *case) for case in product(GROUPS, PYTHONS, PLATFORMS)}


@pytest.mark.network
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("group", GROUPS)
def test_the_pinned_set_resolves(
    group: str,
    python: str,
    platform: str,
    resolutions: dict[tuple[str, ...], Future[subprocess.CompletedProcess[str]]],
) -> None:
    done = resolutions[group, python, platform].result()

    assert done.returncode == 0, done.stderr
    resolved = names(done.stdout)
    assert {"torch", "ray", "mlflow"} <= resolved
    assert ("triton" in resolved) == ("linux" in platform)
    pinned = names((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert resolved <= pinned, "constraints.txt leaves these open: make lock writes it again"
