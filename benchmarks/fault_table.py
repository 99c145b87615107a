"""The tables of a record of disturbed sweeps, as Markdown.

`python benchmarks/fault_table.py RECORD DOCUMENT...` writes them into documents, between `BEGIN`
and `END`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fault_history import RULES
from fault_schedules import TITLES

SWEEPS = "sweeps.jsonl"
BEGIN, END = "<!-- of fault_table.py -->\n", "<!-- end -->\n"
Line = Mapping[str, Any]


def read_sweeps(folder: Path) -> list[Line]:
    """The lines of a record; empty without one."""
    file = folder / SWEEPS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(lines: Sequence[Line]) -> str:
    """How often each fault was done, and in how many sweeps each rule was broken.

    The latest line of a seed counts; earlier ones, of sweeps that were not sound, are told below.
    """
    latest = {line["seed"]: line for line in lines}
    earlier = [line for line in lines if line is not latest[line["seed"]]]
    return "\n".join([*_faults([*latest.values()]), "", *_rules([*latest.values()], earlier), ""])


def _faults(lines: Sequence[Line]) -> list[str]:
    times = Counter(fault["kind"] for line in lines for fault in line["done"])
    sweeps = Counter(kind for line in lines for kind in {each["kind"] for each in line["done"]})
    rows = [f"| {said} | {times[kind]} | {sweeps[kind]} |" for kind, said in TITLES.items()]
    total = f"| **all** | **{times.total()}** | **{len(lines)}** |"
    return ["| Fault | Times | Sweeps |", "|---|---|---|", *rows, total]


def _rules(lines: Sequence[Line], earlier: Sequence[Line]) -> list[str]:
    broken, before = _broken(lines), _broken(earlier)
    rows = [
        f"| {said} | {len(lines) - broken[rule]} of {len(lines)} | {before[rule]} |"
        for rule, said in RULES.items()
    ]
    head = ["| What is checked after each sweep | Passed | Failed before a fix |"]
    return [*head, "|---|---|---|", *rows]


def _broken(lines: Sequence[Line]) -> Counter[str]:
    return Counter(rule for line in lines for rule in {each["rule"] for each in line["findings"]})


def updated(document: str, lines: Sequence[Line]) -> str:
    """A document with the tables of these lines."""
    before, _, rest = document.partition(BEGIN)
    return before + BEGIN + table(lines) + END + rest.partition(END)[2]


if __name__ == "__main__":
    record, *documents = map(Path, sys.argv[1:])
    for each in documents:
        each.write_text(updated(each.read_text(), read_sweeps(record)))
