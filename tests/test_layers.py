"""The house stands: imports point downwards, run in no circle, and files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gmt_core", "evaluators", "sweeps")
MOST_LINES = 350
# What a distribution is called where its name is not the name one imports.
DISTRIBUTIONS = {"yaml": "pyyaml", "math_verify": "math-verify", "lm_eval": "lm-eval"}
# Installed and pinned by transformers, whose public interface hands out their objects.
COMES_WITH = {
    "huggingface_hub": "transformers",
    "numpy": "torch",
    "pyarrow": "datasets",
    "safetensors": "transformers",
    "tokenizers": "transformers",
    "triton": "torch",  # on Linux, where there are GPUs
}


@dataclass(frozen=True)
class Floor:
    """What the modules whose names begin with `prefix` may import.

    `own`: prefixes of this project's modules. `libraries`: if given, nothing else from outside
    the standard library. `never`: libraries that are refused by name.
    """

    prefix: str
    own: tuple[str, ...]
    libraries: frozenset[str] | None = None
    never: frozenset[str] = frozenset()


ORCHESTRATION = frozenset({"ray", "mlflow", "optuna"})

# The first floor whose prefix fits holds, so a room stands before the house it is in.
FLOORS = (
    # Doors for those who have the library at hand; nothing of gmt_core opens them by itself.
    Floor(
        "gmt_core.integrations",
        own=("gmt_core",),
        libraries=frozenset({"torch", "transformers", "lightning"}),
    ),
    Floor("gmt_core.kernels", own=("gmt_core",), libraries=frozenset({"torch", "triton"})),
    Floor("gmt_core", own=("gmt_core",), libraries=frozenset({"torch"})),
    Floor(
        "evaluators",
        own=("evaluators",),
        libraries=frozenset(
            {
                *("torch", "transformers", "datasets", "huggingface_hub"),
                *("math_verify", "yaml", "lm_eval", "vllm"),
            }
        ),
    ),
    Floor(
        "sweeps.finetune",
        own=("gmt_core", "evaluators", "sweeps.finetune"),
        never=ORCHESTRATION,
    ),
    Floor(
        "sweeps.mini",
        own=("gmt_core", "evaluators", "sweeps.finetune", "sweeps.mini"),
        never=ORCHESTRATION,
    ),
    Floor(
        "sweeps.statistics",
        own=("sweeps.statistics",),
        libraries=frozenset({"numpy", "scipy"}),
    ),
    Floor("sweeps.report", own=("sweeps.report", "sweeps.statistics"), never=ORCHESTRATION),
    Floor("sweeps", own=PACKAGES),
)

# The rooms of the orchestration, from the ground up: each may use what stands before it.
ROOMS = (
    *("finetune", "mini", "statistics", "report", "errors", "interrupts", "imports"),
    *(
        "tracking",
        "settings",
        "storage",
        "config",
        "designs",
        "folder",
        "search",
        "display",
        "workers",
        "plans",
        "results",
    ),
    *("session", "study", "paper", "single_run", "evaluation_run", "doctor"),
    *("commands", "cli", "__main__"),
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def nodes(tree: ast.AST, *, at_load: bool) -> Iterator[ast.AST]:
    """All nodes; with `at_load` only those that run while the module is imported."""
    for child in ast.iter_child_nodes(tree):
        if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_load and isinstance(child, ast.If) and is_type_checking(child.test):
            continue
        yield child
        yield from nodes(child, at_load=at_load)


def imports(module: str, *, at_load: bool = False) -> set[str]:
    """Full names of the modules that `module` imports."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), at_load=at_load):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in SOURCES else base)
    return found


def libraries(names: set[str]) -> set[str]:
    """Top-level names from outside this project and the standard library."""
    tops = {name.partition(".")[0] for name in names}
    return tops - set(PACKAGES) - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards(module: str) -> None:
    floor = next(floor for floor in FLOORS if is_under(module, floor.prefix))
    names = imports(module)
    ours = {name for name in names if name.partition(".")[0] in PACKAGES}
    upwards = {name for name in ours if not any(is_under(name, own) for own in floor.own)}
    assert not upwards, f"{module} imports {upwards}, which is not below {floor.prefix}"
    outside = libraries(names)
    refused = outside & floor.never
    if floor.libraries is not None:
        refused |= outside - floor.libraries
    assert not refused, f"{module} imports {refused}, which {floor.prefix} may not"


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in SOURCES if name.startswith("sweeps.")])
def test_rooms_use_only_rooms_below(module: str) -> None:
    below = ROOMS[: ROOMS.index(room_of(module)) + 1]
    used = {name for name in imports(module) if name.startswith("sweeps.")}
    above = {name for name in used if room_of(name) not in below}
    assert not above, f"{module} imports {above}, which stands above {room_of(module)}"


@pytest.mark.parametrize("module", SOURCES)
def test_libraries_are_declared(module: str) -> None:
    file = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = file["project"]["optional-dependencies"]  # imported where they are asked for only
    lines = file["project"]["dependencies"] + [line for extra in extras.values() for line in extra]
    if is_under(module, "gmt_core.integrations"):  # for those who have the library already
        lines = lines + file["dependency-groups"]["dev"]
    declared = {re.split(r"[\[<>=]", line)[0].lower() for line in lines}
    needed = {COMES_WITH.get(name, name) for name in libraries(imports(module))}
    missing = {DISTRIBUTIONS.get(name, name) for name in needed} - declared
    assert not missing, f"{module} imports {missing}, which pyproject.toml does not list"


def test_no_import_cycles() -> None:
    arrows = {module: imports(module, at_load=True) & set(SOURCES) for module in SOURCES}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in sorted(arrows[module] - {module}):
                walk(target, [*trail, module])
            done.add(module)

    for module in SOURCES:
        walk(module, [])


@pytest.mark.parametrize("path", SOURCES.values(), ids=SOURCES)
def test_files_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines: split it"


@pytest.mark.parametrize("name", ["sweeps/__init__.py", "sweeps/finetune/__init__.py"])
def test_packages_hold_no_code(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8").strip() == ""


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        ("gmt_core", {"ray", "mlflow", "optuna", "transformers", "datasets", "pydantic"}),
        ("evaluators", {"ray", "mlflow", "optuna", "gmt_core"}),
        # Who only looks at a sweep waits for nothing that trains.
        ("sweeps.search", {"ray", "torch", "mlflow", "transformers"}),
        ("sweeps.display", {"ray", "torch", "mlflow", "transformers"}),
    ],
)
def test_importing_brings_in_nothing_heavy(package: str, heavy: set[str]) -> None:
    modules = sorted(name for name in SOURCES if is_under(name, package))
    modules = [name for name in modules if not name.rpartition(".")[2].startswith("_")]
    modules = [name for name in modules if not is_under(name, "gmt_core.integrations")]
    code = f"import {', '.join(modules)}, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
