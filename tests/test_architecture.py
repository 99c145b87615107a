"""The architecture holds: layers, declared libraries, no import cycles, small files."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gmt_core", "evaluators", "sweeps")
MOST_LINES = 350
# What a distribution is called where its name is not the name one imports.
DISTRIBUTIONS = {"yaml": "pyyaml", "math_verify": "math-verify", "lm_eval": "lm-eval"}
# Installed and pinned by these, whose public interface hands out their objects.
COMES_WITH = {
    "huggingface_hub": "transformers",
    "numpy": "torch",
    "pyarrow": "datasets",
    "safetensors": "transformers",
    "tokenizers": "transformers",
    "triton": "torch",  # on Linux, where there are GPUs
}


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
    """Full names of the modules that `module` imports, always by absolute imports."""
    found: set[str] = set()
    tree = ast.parse(SOURCES[module].read_text(encoding="utf-8"))
    for node in nodes(tree, at_load=at_load):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in SOURCES else node.module)
    return found


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def declared(settings: dict[str, Any], groups: tuple[str, ...] = ()) -> set[str]:
    project = settings["project"]
    extras = project["optional-dependencies"]  # imported only where they are asked for
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    lines += [line for group in groups for line in settings["dependency-groups"][group]]
    return {re.split(r"[\[<>=;]", line)[0].strip().lower() for line in lines}


def test_libraries_are_declared() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    missing: dict[str, set[str]] = {}
    for module in SOURCES:
        # The integrations are for those who have the library at hand.
        groups = ("dev",) if is_under(module, "gmt_core.integrations") else ()
        tops = {name.partition(".")[0] for name in imports(module)}
        outside = tops - set(PACKAGES) - set(sys.stdlib_module_names)
        needed = {COMES_WITH.get(name, name) for name in outside}
        absent = {DISTRIBUTIONS.get(name, name) for name in needed} - declared(settings, groups)
        if absent:
            missing[module] = absent
    assert not missing, f"not listed in pyproject.toml: {missing}"


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


def test_files_stay_small_and_have_names_of_their_own() -> None:
    sizes = {str(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES.values()}
    large = {name: lines for name, lines in sizes.items() if lines > MOST_LINES}
    assert not large, f"split them: {large}"
    sweeps = [path.name for name, path in SOURCES.items() if is_under(name, "sweeps")]
    twice = {name for name, count in Counter(sweeps).items() if count > 1} - {"__init__.py"}
    assert not twice, f"two files of sweeps have the name {twice}"


LIGHT = ("sweeps.search", "sweeps.cli.sweep_status", "sweeps.cli.status_view")


@pytest.mark.parametrize(
    ("prefixes", "heavy"),
    [
        (("gmt_core",), {"ray", "mlflow", "optuna", "transformers", "datasets", "pydantic"}),
        (("evaluators",), {"ray", "mlflow", "optuna", "gmt_core"}),
        # Who only looks at a sweep waits for nothing that trains.
        (LIGHT, {"ray", "torch", "mlflow", "transformers"}),
    ],
    ids=["gmt_core", "evaluators", "status"],
)
def test_importing_brings_in_nothing_heavy(prefixes: tuple[str, ...], heavy: set[str]) -> None:
    modules = sorted(n for n in SOURCES if any(is_under(n, prefix) for prefix in prefixes))
    modules = [name for name in modules if not name.rpartition(".")[2].startswith("_")]
    modules = [name for name in modules if not is_under(name, "gmt_core.integrations")]
    code = f"import {', '.join(modules)}, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# Documented, for all their underscore; and what the sandbox's Handle sets by its name.
ALLOWED = {"_exit", "_replace", "_module", "_current_frames"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names() -> set[str]:
    """Every private name that the packages define: functions, attributes, fields, modules."""
    found = {part for module in SOURCES for part in module.split(".")}
    for path in SOURCES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return found


def foreign_names(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """The private names of libraries that a module takes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.partition(".")[0] not in (*PACKAGES, "__future__"):
                taken = [*module.split("."), *(p for a in node.names for p in a.name.split("."))]
                yield from filter(is_private, taken)
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_self and node.attr not in own:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            names = [text for text in texts if isinstance(text, str) and is_private(text)]
            yield from (name for name in names if name not in own)


def test_private_names_of_libraries_stand_in_compat_modules() -> None:
    own = own_names() | ALLOWED
    for module, path in SOURCES.items():
        if not module.endswith("_compat"):
            found = set(foreign_names(ast.parse(path.read_text(encoding="utf-8")), own))
            assert not found, f"{module}: {found} belongs in the compat module of its layer"
