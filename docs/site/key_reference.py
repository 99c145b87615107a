"""The reference of all keys, from the schema: `python docs/site/key_reference.py` rewrites it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from inspect import get_annotations as annotations
from itertools import pairwise
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from sweeps.config.searched_parameter import Choices, FloatRange
from sweeps.config.sweep_config import SweepConfig
from sweeps.config.validation_errors import as_yaml, inner_model
from sweeps.execution.single_run import SingleRun

PAGE = Path(__file__).parents[1] / "keys.md"
TITLE = """# Keys of the configuration

All keys of a [sweep](#a-sweep) and of a [single run](#a-single-run), with their values and
defaults. `python docs/site/key_reference.py` writes this page from the schema. On the command
line, a key is an override: `search.trials=4`.
"""
PARAMETER = "a value, a list, [choices](#choices) or a [range](#a-range)"
FORMS = {"Choices": Choices, "A range": FloatRange}
OF = {SweepConfig: "", SingleRun: " of a single run"}
TYPES = {"": "any value", "integer": "a whole number", "number": "a number", "string": "text"}


def reference() -> str:
    """The page, in Markdown."""
    shown: dict[tuple[type[BaseModel], str], str] = {}
    parts = [TITLE]
    for title, root in (("A sweep", SweepConfig), ("A single run", SingleRun)):
        for path, model in sections(root):
            heading = f"### `{path}`{OF[root]}" if path else f"## {title}"
            parts.append(section(heading, path or title, model, shown))
    parts += [section(f"## {title}", title, form, shown) for title, form in FORMS.items()]
    return "\n".join(part for part in parts if part)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every model below this one and the key that holds it, as `domains.NAME.data`."""
    yield path, model
    for name, field in model.model_fields.items():
        inside = inner_model(field.annotation)
        if inside is not None and inside not in FORMS.values():
            many = ".NAME" if "dict" in str(field.annotation) else ""
            yield from sections(inside, f"{path}.{name}{many}".removeprefix("."))


def section(
    heading: str, path: str, model: type[BaseModel], shown: dict[tuple[type[BaseModel], str], str]
) -> str:
    """A model's keys as a table, without those that an earlier section shows; perhaps empty."""
    owners = {name: owner(model, name) for name in model.model_fields}
    new = {name: each for name, each in owners.items() if (each, name) not in shown}
    if not new:
        return ""
    elsewhere = {shown[each, name] for name, each in owners.items() if name not in new}
    also = [
        line for each in sorted(elsewhere) for line in (f"Also the keys of `{each}`, and:", "")
    ]
    shown |= {(each, name): path for name, each in new.items()}
    rows = [row(name, model.model_fields[name], each) for name, each in new.items()]
    head = ["| Key | Values | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join([heading, "", *also, *head, *rows, ""])


def owner(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The class that declares a field."""
    return next(each for each in model.__mro__ if name in annotations(each))


def row(name: str, field: FieldInfo, declared_in: type[BaseModel]) -> str:
    """A key's line of the table."""
    cells = (f"`{name}`", values_of(field), default_of(field), meaning(declared_in, name))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def meaning(model: type[BaseModel], name: str) -> str:
    """The docstring of a field, its own or an inherited one, in one line."""
    found = [docstrings(each).get(name) for each in model.__mro__ if name in annotations(each)]
    return next(text for text in found if text)


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The strings below the fields that a class declares."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body
    return {
        ast.unparse(field.target): " ".join(after.value.value.split()).replace("``", "`")
        for field, after in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
    }


def default_of(field: FieldInfo) -> str:
    """What holds if the key is not given."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        value = list(value) or {}
    return f"`{as_yaml(value)}`"


def values_of(field: FieldInfo) -> str:
    """The values that a key takes, in words."""
    inside = inner_model(field.annotation)
    if inside in FORMS.values():
        return PARAMETER
    if inside is not None:
        kinds = {dict: "keys by name", tuple: "a list of keys"}
        return kinds.get(get_origin(field.annotation), "keys")
    return in_words(TypeAdapter(field.rebuild_annotation()).json_schema())


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema as a phrase."""
    if "anyOf" in schema:
        return ", or ".join(in_words(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{as_yaml(each)}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{as_yaml(schema['const'])}`"
    kind = schema.get("type", "")
    if kind == "array":
        pair = schema.get("prefixItems", [])
        return (
            f"{'a pair' if pair else 'a list'}; each: {in_words((pair or [schema['items']])[0])}"
        )
    if kind == "object":
        return "values by name"
    if kind in ("boolean", "null"):
        return "`true`, `false`" if kind == "boolean" else "`null`"
    return f"{TYPES[kind]}{bounds(schema)}"


def bounds(schema: dict[str, Any]) -> str:
    """The interval of a number's schema: ` in [0, 1)`, or ` ≥ 1` if it is open to one side."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2**63))
    if low is None:
        return ""
    if high >= 2**63:
        return f" {'≥' if 'minimum' in schema else '>'} {low:g}"
    ends = "[" if "minimum" in schema else "(", "]" if "maximum" in schema else ")"
    return f" in {ends[0]}{low:g}, {high:.10g}{ends[1]}"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
