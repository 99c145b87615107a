"""Where `compare` finds scores of items: outputs of `eval` and lm-eval, sweeps, their trials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.comparison import Difference, ScoredItem, scored_items
from evaluators.errors import DataError, unknown_name
from evaluators.records import read_records
from evaluators.rows import read_jsonl
from sweeps.execution.evaluation_run import SCORES, file_name, without_nan
from sweeps.execution.test_scores import FILE, TestScores
from sweeps.storage.errors import UserError

Items = dict[str, list[ScoredItem]]
_HARNESS_FILE = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
EXPECTED = (
    "expected a folder of `eval --samples-out` or of lm-eval's --log_samples, one of their .jsonl "
    "files, or a sweep, domain or trial whose test items were scored"
)


def read_items(source: str, metric: str | None = None) -> Items:
    """The scored items of `source` by benchmark.

    `source` may end in @ROLE: which model of a sweep, "best" (default) or "sft" in a search, the
    key of a trial in a fixed design. `metric`: of each item, instead of the primary one.

    Raises UserError: nothing was scored there; DataError: a record cannot be read.
    """
    whole = Path(source).expanduser()
    name, _, role = (source, "", "") if whole.exists() else source.rpartition("@")
    path = whole if whole.exists() else Path(name or role).expanduser()
    if path.is_file():
        return dict(_of_file(path, metric))
    tested = _tested(path)
    if tested and metric is not None:
        raise UserError(f"{path}: a sweep stores only the primary metric of items; omit --metric")
    if tested:
        return _of_sweep(path, tested, role or None)
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else []
    found = dict(each for file in files for each in _of_file(file, metric))
    if not found:
        raise UserError(f"{source}: no scored items; {EXPECTED}")
    return found


def write_json(
    found: Sequence[Difference], lonely: Mapping[str, tuple[int, int]], path: Path
) -> None:
    """Every difference with all that is known of it, and the benchmarks without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [without_nan(asdict(each)) for each in found]
    text = {"differences": rows, "items_of_benchmarks_left_out": lonely}
    path.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def _of_file(path: Path, metric: str | None) -> Iterator[tuple[str, list[ScoredItem]]]:
    """The benchmarks of a file: one, or one for each filter of a task of lm-eval."""
    _, first = next(read_jsonl(path, {}))
    if "doc_id" in first:
        yield from _of_harness(path, metric)
        return
    records = read_records(path)
    name = path.stem
    kind: dict[str, Any] = {}
    report = path.parent / SCORES
    if report.is_file():
        results = json.loads(report.read_text(encoding="utf-8"))["results"]
        known = {file_name(key): (each.get("name", key), each) for key, each in results.items()}
        name, kind = known.get(path.stem, (name, kind))
    if metric is None:
        primary, aggregation = kind.get("metric", ""), kind.get("aggregation", "items")
        yield name, scored_items(records, primary, aggregation)
        return
    items = []
    for record in records:
        value = record.scores.get(metric, record.parts.get(metric))
        if not isinstance(value, int | float):
            names = tuple(dict.fromkeys((*record.scores, *record.parts)))
            raise DataError(f"{path}: {unknown_name('metric', metric, names)}")
        items.append(
            ScoredItem(record.id, float(value), 1.0, record.cluster, record.prompt_sha256)
        )
    yield name, items


def _of_harness(path: Path, metric: str | None) -> Iterator[tuple[str, list[ScoredItem]]]:
    """lm-eval's own samples: one line per document and filter."""
    match = _HARNESS_FILE.fullmatch(path.name)
    task = path.stem if match is None else match["task"]
    by_filter: dict[str, list[ScoredItem]] = {}
    for line, row in read_jsonl(path, {"doc_id": int, "metrics": list}):
        numbers = [name for name in row["metrics"] if isinstance(row.get(name), int | float)]
        chosen = metric or next(iter(numbers), "")
        if chosen not in numbers:
            expected = (
                f"a metric that is a number for each document, {', '.join(numbers) or 'none'}"
            )
            raise DataError.at(path, line, expected, repr(metric))
        item = ScoredItem(
            str(row["doc_id"]), float(row[chosen]), prompt=str(row.get("prompt_hash", ""))
        )
        by_filter.setdefault(str(row.get("filter", "none")), []).append(item)
    for name, items in by_filter.items():
        yield (f"{task}/{name}" if len(by_filter) > 1 else task), items


def _tested(path: Path) -> dict[str, tuple[TestScores, str | None]]:
    """Domain to its test scores, and the key of the trial if `path` is that of one."""
    if (path / FILE).is_file():
        return {"": (TestScores.read(path), None)}
    if path.parent.name == "trials" and (path.parent.parent / FILE).is_file():
        return {"": (TestScores.read(path.parent.parent), path.name)}
    files = sorted(path.glob(f"*/{FILE}")) if path.is_dir() else []
    return {file.parent.name: (TestScores.read(file.parent), None) for file in files}


def _of_sweep(
    path: Path, tested: Mapping[str, tuple[TestScores, str | None]], role: str | None
) -> Items:
    found: Items = {}
    for domain, (scores, key) in tested.items():
        by_key = {trial: name for name, trial in scores.keys.items()}
        wanted = by_key.get(key or role or "", role or ("best" if key is None else key))
        if not scores.items.get(wanted):
            raise UserError(
                f"{path}: no test items of {wanted!r}; expected one of "
                f"{', '.join(scores.items) or 'none'}, as in {path}@ROLE. To compare other "
                "trials, score their models: eval MODEL --samples-out FOLDER"
            )
        for name, items in scores.items[wanted].items():
            found["/".join(part for part in (domain, name) if part)] = [
                ScoredItem(*item) for item in items
            ]
    return found
