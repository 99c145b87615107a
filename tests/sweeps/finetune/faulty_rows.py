"""Rows and files with the faults that published ones have, and what becomes of each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

CALL = {"function": {"name": "add", "arguments": '{"a": 1}'}}
BOM = "\ufeff"


def _said(question: Any, answer: Any, **more: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": answer, **more}
    return {"messages": [{"role": "user", "content": question}, said]}


GOOD = _said("1+1=", "2")
READ: list[dict[str, Any]] = [
    GOOD,
    _said([{"type": "text", "text": "2+2="}], [{"type": "text", "text": "4"}]),
    {"messages": [{"role": "developer", "content": "Add."}, *GOOD["messages"]]},
    {"messages": [{"role": "system", "content": ""}, *GOOD["messages"]]},
    {"messages": [*_said("hi", "yo", weight=0)["messages"], *GOOD["messages"]]},
    {**GOOD, "tools": [], "images": None},
]
"""Each gives one example."""
REFUSED: list[dict[str, Any]] = [
    _said("1+1=", ""),
    _said("", "2"),
    _said("1+1=", None),
    _said("1+1=", None, tool_calls=[CALL]),
    {**GOOD, "tools": [{"name": "add"}]},
    _said([{"type": "image_url", "image_url": {"url": "x"}}], "2"),
    _said("1+1=", "2", weight=0),
    {"messages": []},
]
"""Each is a bad row: of a format's own prompt."""


def save_faulty(folder: Path) -> dict[str, Path]:
    """Files of READ and REFUSED with a byte order mark and .gz, and files without a row."""
    lines = "\n\n".join(map(json.dumps, [*READ, *REFUSED]))
    files = {
        "rows": ("rows.jsonl.gz", gzip.compress(f"{BOM}{lines}\n".encode())),
        "more": ("more.json", f"{BOM}{json.dumps(READ)}".encode()),
        "empty": ("empty.jsonl", b""),
        "blank": ("blank.jsonl", b"\n\n  \n"),
        "list": ("list.json", b"[]"),
        "header": ("header.csv", b"prompt,response\n"),
    }
    for name, content in files.values():
        (folder / name).write_bytes(content)
    return {key: folder / name for key, (name, _) in files.items()}
