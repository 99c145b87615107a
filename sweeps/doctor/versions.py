"""Which packages run here, whether all machines have the same, and whose `sweeps` this is."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from sweeps.doctor.finding import Finding

DECIDING = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets", "pydantic")
"""The packages whose versions must be the same on every machine of a sweep."""


def versions() -> dict[str, str]:
    """Python's version and those of the deciding packages; "missing" for what is not there."""
    found = {"python": platform.python_version()}
    for name in DECIDING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def check_installed(found: Mapping[str, str], pins: Mapping[str, str]) -> Finding:
    """Everything is there; versions other than the tested ones (``pins``) are said."""
    missing = sorted(name for name, version in found.items() if version == "missing")
    if missing:
        mend = "pip install -c constraints.txt -e ."
        return Finding("versions", False, f"not installed: {', '.join(missing)}", mend)
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    other = {
        name: pins[name]
        for name, version in found.items()
        if name in pins and pins[name] != version.partition("+")[0]
    }
    if other:
        tested = ", ".join(f"{name} {version}" for name, version in other.items())
        mend = "pip install -c constraints.txt -e ."
        return Finding("versions", True, f"{shown}; the tests ran with {tested}", mend)
    return Finding("versions", True, shown)


def check_same(here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    """A node's versions against the driver's."""
    differing = [
        f"{name} {there.get(name, 'missing')} (driver: {version})"
        for name, version in here.items()
        if there.get(name, "missing").partition("+")[0] != version.partition("+")[0]
    ]
    if differing:
        mend = "ray up cluster.yaml   (its setup installs the pinned packages on every node)"
        return Finding("versions", False, f"other than the driver's: {', '.join(differing)}", mend)
    return Finding("versions", True, "the driver's")


def read_pins(constraints: Path) -> dict[str, str]:
    """The pinned versions of a constraints file by package; {} without one."""
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, _, version in pins}


def check_shadowed(owners: Mapping[str, list[str]], loaded: Path) -> Finding:
    """Another distribution on PyPI brings a package called `sweeps` too.

    ``owners``: as `importlib.metadata.packages_distributions`; ``loaded``: where `sweeps` lies.
    """
    others = sorted({name for name in owners.get("sweeps", []) if name != "gmt-sweep"})
    if others:
        said = f"the installed {', '.join(others)} brings another package called 'sweeps'"
        return Finding("sweeps package", False, said, f"pip uninstall {' '.join(others)}")
    return Finding("sweeps package", True, f"ours, in {loaded}")
