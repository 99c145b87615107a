"""The distribution gmt-core: its wheel, alone and beside gmt-sweep."""

from __future__ import annotations

import email
import email.message
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distribution
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ROOT / "gmt_core"
BASICS = "from gmt_core import GradientMask; print(GradientMask(0.2).__module__)"
# What runs the tests of the package; neither is needed by its users.
RUNNERS = ("pytest", "pytest-timeout", "hypothesis")
RANKS = "tests/gmt_core/test_distributed.py"  # counts messages by a part of torch that needs NumPy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: object) -> str:
    whole = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    return run(*whole, cwd=ROOT)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("hatchling", reason="builds the wheels; in the group dev")
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, CODE, ROOT)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def with_dependencies(*names: str) -> set[str]:
    from packaging.requirements import Requirement

    found: set[str] = set()
    missing = list(names)
    while missing:
        name = missing.pop()
        if name not in found:
            found.add(name)
            needed = [Requirement(line) for line in distribution(name).requires or []]
            missing += [
                each.name
                for each in needed
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def environment(folder: Path, *names: str) -> Path:
    """A Python that sees the installed `names`, what they need, and nothing else."""
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in with_dependencies(*names):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(str(installed.locate_file(top)))
    return folder / "bin" / "python"


def install(python: Path, *what: Path | str) -> None:
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", *what)


def content(wheel: Path) -> tuple[set[str], email.message.Message]:
    """The files of a wheel outside its metadata, and these."""
    with ZipFile(wheel) as file:
        names = file.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        read = email.message_from_bytes(file.read(metadata))
        assert not any("entry_points" in name for name in names) or read["Name"] == "gmt-sweep"
    return {name for name in names if ".dist-info/" not in name}, read


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_wheel_holds_the_package_and_asks_for_torch_alone(wheels: dict[str, Path]) -> None:
    files, metadata = content(wheels["gmt_core"])
    own = {str(path.relative_to(ROOT)) for path in CODE.rglob("*.py")} | {"gmt_core/py.typed"}
    assert files == own
    needed = metadata.get_all("Requires-Dist") or []
    assert [line for line in needed if "extra ==" not in line] == ["torch>=2.13"]
    in_sweep, _ = content(wheels["gmt_sweep"])
    assert {name for name in in_sweep if name.startswith("gmt_core/")} == own


def test_both_distributions_have_one_version_and_one_torch() -> None:
    core, sweep = project(CODE), project(ROOT)
    assert core["version"] == sweep["version"]
    assert core["requires-python"] == sweep["requires-python"]
    assert set(core["dependencies"]) <= set(sweep["dependencies"])


@pytest.mark.parametrize("order", [("gmt_core", "gmt_sweep"), ("gmt_sweep", "gmt_core")])
def test_both_may_be_installed(order, wheels: dict[str, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "env", "torch")
    for name in order:
        install(python, wheels[name])
    both = f"import evaluators, sweeps; {BASICS}"
    assert run(python, "-c", both, cwd=tmp_path) == "gmt_core.gradient_mask\n"
    pip("--python", python, "uninstall", "--quiet", "--yes", order[0])
    install(python, "--force-reinstall", wheels[order[1]])
    assert run(python, "-c", BASICS, cwd=tmp_path) == "gmt_core.gradient_mask\n"


def clone_without_package(folder: Path) -> Path:
    """What the tests of the package read, so that they take the package from the environment."""
    left = ("__pycache__", "integrations", "records", "test_wheel.py", "test_equations.py")
    for part in ("tests/gmt_core", "benchmarks", "examples"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(*left))
    for part in ("tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.mark.parametrize(
    ("libraries", "tests"),
    [
        (("torch",), ("tests/gmt_core", f"--ignore={RANKS}")),
        (("torch", "numpy", "safetensors"), ("tests/gmt_core/test_sparse_delta.py", RANKS)),
    ],
    ids=["torch", "delta"],
)
def test_its_tests_pass_with_what_it_asks_for(
    libraries: tuple[str, ...], tests: tuple[str, ...], wheels: dict[str, Path], tmp_path: Path
) -> None:
    python = environment(tmp_path / "env", *libraries, *RUNNERS)
    install(python, wheels["gmt_core"])
    clone = clone_without_package(tmp_path / "clone")
    place = run(python, "-c", "import gmt_core; print(gmt_core.__file__)", cwd=clone)
    assert place.startswith(str(tmp_path / "env"))
    run(python, "examples/plain_pytorch.py", "--updates", 20, cwd=clone)
    # Torch warns when it is imported without NumPy.
    options = ("-p", "no:cacheprovider", "-W", "ignore:Failed to initialize NumPy")
    run(python, "-m", "pytest", *options, *tests, cwd=clone)
