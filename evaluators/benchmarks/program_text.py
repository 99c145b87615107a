"""From a task and a completion to the text of a program, and what of the task it must not change.

A completion continues the task's head, or restates it, with or without a code block around it.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_FENCE = re.compile(r"^[ \t]*```.*$", re.MULTILINE)


@dataclass(frozen=True)
class Head:
    """The code that a program begins with.

    `finished` are its statements without the one that the completion continues; `functions` and
    `classes` are the names that these define; `wanted` those that the rest of the reference
    defines, none where there is no reference in Python.
    """

    text: str
    finished: str = ""
    functions: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    wanted: tuple[str, ...] = ()


@lru_cache(maxsize=1024)
def read_head(text: str, reference: str) -> Head:
    """What `text` defines, where `reference` completes it; a text in words defines nothing."""
    with_reference = _parsed(text + reference) if reference.strip() else None
    tree = (
        with_reference or _parsed(text) or _parsed(f"{text}pass") or _parsed(f"{text}\n    pass")
    )
    if tree is None:
        return Head("")
    own = text.count("\n")  # an unfinished line is the completion's
    if with_reference:
        finished = [each for each in tree.body if (each.end_lineno or 0) <= own]
    else:
        finished = tree.body[:-1]
    last = finished[-1].end_lineno if finished else 0
    return Head(
        text,
        "".join(text.splitlines(keepends=True)[:last]),
        frozenset(_functions(finished)),
        frozenset(each.name for each in finished if isinstance(each, ast.ClassDef)),
        tuple(_defined(tree.body[len(finished) :])) if with_reference else (),
    )


def program_text(head: Head, completion: str) -> str:
    """The first reading of `completion` that is Python; as it is where none is."""
    texts = [head.text + completion, f"{head.finished}\n{completion}"]
    before, *fenced = _FENCE.split(completion)
    if fenced:
        blocks = [block for block in fenced[::2] if block.strip()]
        starts = (f"{head.text.rstrip()}\n", f"{head.finished}\n")
        texts = [start + block for block in blocks for start in dict.fromkeys(starts)]
        if _COMMENT.sub("", before).strip():
            texts.insert(0, head.text + before)
    return next((text for text in texts if _parsed(text) is not None), texts[0])


def checkers(head: Head, tests: Sequence[str]) -> set[str]:
    """The finished functions of the head that judge what a program made, by the tests' calls.

    None where the head defines classes, whose objects the program and these functions share.
    """
    known = {*head.functions, *dir(builtins)}
    if head.classes:
        return set()
    return {
        name
        for tree in map(_parsed, tests)
        for call in ast.walk(tree or ast.Module([], []))
        if isinstance(call, ast.Call)
        for name in [call.func.id if isinstance(call.func, ast.Name) else ""]
        if name in head.functions and any(used not in known for used in _names(call))
    }


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _names(node: ast.AST) -> Iterator[str]:
    return (each.id for each in ast.walk(node) if isinstance(each, ast.Name))


def _functions(body: Sequence[ast.stmt]) -> Iterator[str]:
    """The names of functions, also of those that a lambda makes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
            yield from (name for target in node.targets for name in _names(target))


def _defined(body: Sequence[ast.stmt]) -> Iterator[str]:
    yield from _functions(body)
    yield from (node.name for node in body if isinstance(node, ast.ClassDef))
