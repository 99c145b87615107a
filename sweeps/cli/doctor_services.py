"""Checks of package versions, MLflow, the sandbox for generated code, and the job folder.

The job folder is what `ray job submit --working-dir` would upload: its size, and any secrets.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import final

from sweeps.cli.doctor_machine import Finding
from sweeps.execution.ray_compat import visit_shipped
from sweeps.tracking.mlflow_store import check_store, public_address
from sweeps.tracking.tracker import TrackingError

DECIDING = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets", "pydantic")
"""The packages whose versions must be the same on every machine of a sweep."""


def versions() -> dict[str, str]:
    """The versions of Python and of the `DECIDING` packages; "missing" if not installed."""
    found = {"python": platform.python_version()}
    for name in DECIDING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def check_installed(found: Mapping[str, str], pins: Mapping[str, str]) -> Finding:
    """All packages are installed; mention versions that differ from the tested ones (``pins``)."""
    missing = sorted(name for name, version in found.items() if version == "missing")
    if missing:
        fix = "pip install -c constraints.txt -e ."
        return Finding("versions", False, f"not installed: {', '.join(missing)}", fix)
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    other = {
        name: pins[name]
        for name, version in found.items()
        if name in pins and pins[name] != version.partition("+")[0]
    }
    if other:
        tested = ", ".join(f"{name} {version}" for name, version in other.items())
        fix = "pip install -c constraints.txt -e ."
        return Finding("versions", True, f"{shown}; the tests ran with {tested}", fix)
    return Finding("versions", True, shown)


def check_same(here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    """Compare a node's versions with the driver's."""
    differing = [
        f"{name} {there.get(name, 'missing')} (driver: {version})"
        for name, version in here.items()
        if there.get(name, "missing").partition("+")[0] != version.partition("+")[0]
    ]
    if differing:
        fix = "ray up cluster.yaml   (its setup installs the pinned packages on every node)"
        return Finding("versions", False, f"differ from the driver's: {', '.join(differing)}", fix)
    return Finding("versions", True, "same as on the driver")


def read_pins(constraints: Path) -> dict[str, str]:
    """The pinned versions of a constraints file by package; {} without one."""
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, _, version in pins}


def check_shadowed(owners: Mapping[str, list[str]], loaded: Path) -> Finding:
    """Detect another PyPI distribution that also installs a package called `sweeps`.

    ``owners``: as `importlib.metadata.packages_distributions`; ``loaded``: where `sweeps` is.
    """
    others = sorted({name for name in owners.get("sweeps", []) if name != "gmt-sweep"})
    if others:
        said = f"the installed {', '.join(others)} contains another package called 'sweeps'"
        return Finding("sweeps package", False, said, f"pip uninstall {' '.join(others)}")
    return Finding("sweeps package", True, f"ours, in {loaded}")


def tracker_problem(uri: str) -> str:
    """What is wrong with the store at ``uri``, seen from this machine, or "". Takes 5 s at most.

    Also detects a server that rejects the name this machine uses for it (its Host header check).
    """
    try:
        check_store(uri)
    except TrackingError as error:
        return str(error)
    return ""


def check_tracker(uri: str, problem: str) -> Finding:
    """Whether MLflow responds."""
    shown = public_address(uri) if "://" in uri and uri.startswith("http") else uri
    if not problem:
        return Finding("MLflow", True, f"{shown} responds")
    if "403" in problem:
        fix = f"mlflow server --allowed-hosts {shown.partition('://')[2]},localhost:*"
    elif uri.startswith("http"):
        fix = f"curl {shown}/health; start the server, or set tracking.uri=ADDRESS"
    else:
        fix = "use another file: tracking.uri=sqlite:////FOLDER/mlflow.db"
    return Finding("MLflow", False, problem, fix)


def sandbox_level() -> str:
    """The strongest level that works on this machine; "" if none does."""
    from evaluators.errors import SandboxError
    from evaluators.sandbox import LEVELS, resolve_level

    for level in LEVELS:
        try:
            return resolve_level(level)
        except SandboxError:
            continue
    return ""


def check_sandbox(level: str) -> Finding:
    """How well model-generated programs are confined at ``level``."""
    if level == "bubblewrap":
        return Finding(
            "sandbox", True, "bubblewrap: generated programs have no network and no files"
        )
    said = f"only '{level}': enough for a model you trust, not for untrusted code"
    if not level:
        return Finding("sandbox", False, "no level works", "apt-get install bubblewrap")
    return Finding("sandbox", True, said, "apt-get install bubblewrap")


MIB = 2**20
MOST_BYTES = 50 * MIB
"""The code takes a few MiB; Ray itself refuses 500."""

_SECRET = re.compile(
    r"(^|/)(\.env(\..+)?|id_(rsa|ed25519)|auth_token|credentials(\.json)?|[^/]+\.(pem|key))$"
)


@final
@dataclass(frozen=True)
class Shipped:
    """One file that would be uploaded; its path is relative to the folder."""

    path: str
    size: int


def shipped_files(folder: Path) -> list[Shipped]:
    """The files of ``folder`` that Ray would upload, by .gitignore, .rayignore and its defaults.

    Reads no file contents, so a folder full of data costs nothing.
    """
    found: list[Shipped] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append(Shipped(str(path.relative_to(folder)), path.stat().st_size))

    visit_shipped(folder, [".git", ".venv", "venv", "__pycache__"], note)
    return sorted(found, key=lambda file: -file.size)


def check_shipped(files: Iterable[Shipped]) -> Finding:
    """Check that the upload is small and holds no secrets. ``files``: the largest first."""
    files = list(files)
    secrets = [file.path for file in files if _SECRET.search(file.path)]
    if secrets:
        said = f"would be uploaded to the cluster: {', '.join(secrets[:5])}"
        return Finding("job folder", False, said, f"echo '{secrets[0]}' >> .rayignore")
    total = sum(file.size for file in files)
    said = f"{len(files)} files, {total / MIB:.1f} MiB would be uploaded"
    if total > MOST_BYTES:
        largest = ", ".join(f"{f.path} ({f.size / MIB:.0f} MiB)" for f in files[:3])
        said = f"{said}, expected at most {MOST_BYTES / MIB:.0f}; the largest: {largest}"
        return Finding("job folder", False, said, f"echo '{files[0].path}' >> .rayignore")
    return Finding("job folder", True, said)
