"""How large the code is: packages, layers, files and code lines. `python tools/code_size.py`.

A code line holds a token that is neither a comment nor part of a docstring; blank lines do not
count. Shell scripts and templates count their lines that are not blank or comments.
"""

from __future__ import annotations

import ast
import io
import statistics
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

COUNTED = ("sweeps", "gmt_core", "evaluators", "tools")
TEMPLATES = (".html", ".css", ".j2", ".sh")
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> int:
    """The number of code lines of a Python module."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(ast.parse(text)))


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of strings that stand alone: docstrings of modules, classes, functions, attributes."""
    found: set[int] = set()
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            found |= set(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return found


def function_lengths(text: str) -> list[int]:
    """Lines from `def` to the end of each function's body."""
    functions = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


def template_lines(text: str) -> int:
    """Lines of a template or script that are neither blank nor a comment."""
    lines = (line.strip() for line in text.splitlines())
    return sum(1 for line in lines if line and not line.startswith("#"))


def measure(root: Path) -> dict[str, float]:
    """All numbers of the tree at `root`, by name; `git` names its files."""
    listed = subprocess.run(
        ["git", "ls-files", *COUNTED], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    files = [root / name for name in listed if name and (root / name).is_file()]
    python = [path for path in files if path.suffix == ".py"]
    sweeps = [path for path in python if path.relative_to(root).parts[0] == "sweeps"]
    packages = {p.relative_to(root).parts[1] for p in sweeps if len(p.relative_to(root).parts) > 2}
    counts = {path: code_lines(path.read_text(encoding="utf-8")) for path in python}
    lengths = sorted(n for p in python for n in function_lengths(p.read_text(encoding="utf-8")))
    numbers: dict[str, float] = {
        "packages of sweeps": len(packages),
        "layers of sweeps": _layers(root),
        "files of sweeps": len(sweeps),
        "median lines of a file of sweeps": statistics.median(
            len(path.read_text(encoding="utf-8").splitlines()) for path in sweeps
        ),
    }
    for name in COUNTED:
        own = [path for path in python if path.relative_to(root).parts[0] == name]
        numbers[f"code lines of {name}"] = sum(counts[path] for path in own)
    others = [path for path in files if path.suffix in TEMPLATES]
    numbers["code lines of templates and scripts"] = sum(
        template_lines(path.read_text(encoding="utf-8")) for path in others
    )
    numbers["code lines in all"] = sum(v for k, v in numbers.items() if k.startswith("code lines"))
    numbers["function length, median"] = statistics.median(lengths)
    numbers["function length, 90th percentile"] = lengths[int(0.9 * len(lengths))]
    return numbers


def _layers(root: Path) -> int:
    """The layers that pyproject.toml declares; 0 where it declares none."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"].get("importlinter", {}).get("contracts", [])
    return sum(len(each["layers"]) for each in contracts if each["type"] == "layers")


if __name__ == "__main__":
    for name, value in measure(Path(sys.argv[1] if sys.argv[1:] else ".").resolve()).items():
        print(f"{name:40} {value:8,.0f}")
