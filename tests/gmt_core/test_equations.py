"""What the page of equations names is defined where it says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "equations.md"
LINK = re.compile(r"\[`([\w.]+)`\]\((\.\./[\w/]+\.py)\)")


def definitions(path: Path) -> set[str]:
    """Functions, classes, and methods as Class.method."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef)
            }
    return found


def test_every_name_is_defined_in_its_file() -> None:
    links = LINK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(links) >= 12
    for name, file in links:
        path = (PAGE.parent / file).resolve()
        assert name in definitions(path), f"{file} does not define {name}"


def test_no_code_name_escapes_the_check() -> None:
    text = LINK.sub("", PAGE.read_text(encoding="utf-8"))
    assert not re.findall(r"\.py\)", text)
