"""Where `compare` finds scores of items: outputs of `eval` and lm-eval, sweeps, their trials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from evaluators.benchmarks import BITS_PER_BYTE
from evaluators.errors import DataError, unknown_name
from evaluators.paired_comparison import ScoredItem, scored_items
from evaluators.records import read_records
from evaluators.rows import read_jsonl
from sweeps.execution.evaluation_run import SCORES, file_name
from sweeps.execution.test_scoring import FILE, TestScores
from sweeps.storage.errors import UserError
from sweeps.storage.trial_files import RESULT_FILE

_HARNESS_FILE = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")


@final
@dataclass(frozen=True)
class Scored:
    """The items of a benchmark, the metric of their scores, and its protocol's fingerprint.

    Both are empty where the source does not name them.
    """

    items: list[ScoredItem]
    metric: str = ""
    protocol: str = ""


Benchmarks = dict[str, Scored]
EXPECTED = (
    "expected a folder of `eval --samples-out` or of lm-eval's --log_samples, one of their .jsonl "
    "files, or a sweep, domain or trial whose test items were scored"
)


def read_items(source: str, metric: str | None = None) -> Benchmarks:
    """The scored items of `source` by benchmark.

    `source` may end in @ROLE: which model of a sweep, "best" (default) or "sft" in a search, the
    key of a trial in a fixed design. `metric`: of each item, instead of the primary one.

    Raises UserError: nothing was scored there; DataError: a record cannot be read.
    """
    whole = Path(source).expanduser()
    name, _, role = (source, "", "") if whole.exists() else source.rpartition("@")
    path = whole if whole.exists() else Path(name or role).expanduser()
    if path.is_file():
        return _of_files([path], metric)
    tested = _tested(path)
    if tested and metric is not None:
        raise UserError(f"{path}: a sweep stores only the primary metric of items; omit --metric")
    if tested:
        return _of_sweep(path, tested, role or None)
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else []
    if not files:
        raise UserError(f"{source}: no scored items; {EXPECTED}")
    if (path / RESULT_FILE).is_file():
        raise UserError(
            f"{source}: a single run records no items; score its model, eval {path / 'model'} "
            "--samples-out FOLDER, and compare that folder"
        )
    return _of_files(files, metric)


def other_rules(a: Benchmarks, b: Benchmarks) -> list[str]:
    """The benchmarks that A and B asked or scored by different protocols.

    Raises UserError where their scores are in different metrics.
    """
    both = [(name, a[name], b[name]) for name in a if name in b]
    for name, one, other in both:
        if one.metric != other.metric and one.metric and other.metric:
            raise UserError(
                f"{name}: expected scores in one metric, found {one.metric} in A and "
                f"{other.metric} in B; --metric bits_per_byte is in every record of `eval`"
            )
    return [name for name, x, y in both if x.protocol and y.protocol and x.protocol != y.protocol]


def _of_files(paths: Sequence[Path], metric: str | None) -> Benchmarks:
    """The benchmarks of all files, each in one of them."""
    found: Benchmarks = {}
    places: dict[str, Path] = {}
    for path in paths:
        for name, scored in _of_file(path, metric):
            if (other := places.setdefault(name, path)) != path:
                raise UserError(
                    f"{name}: expected one file of its items, found {other} and {path}"
                )
            found[name] = scored
    return found


def _of_file(path: Path, metric: str | None) -> Iterator[tuple[str, Scored]]:
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
    primary = kind.get("metric", "")
    protocol = kind.get("protocol_sha256", "")
    if metric in (None, primary, BITS_PER_BYTE):
        metric, aggregation = metric or primary, kind.get("aggregation", "items")
        yield name, Scored(scored_items(records, metric, aggregation), metric, protocol)
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
    yield name, Scored(items, metric, protocol)


def _of_harness(path: Path, metric: str | None) -> Iterator[tuple[str, Scored]]:
    """lm-eval's own samples: one line per document and filter."""
    match = _HARNESS_FILE.fullmatch(path.name)
    task = path.stem if match is None else match["task"]
    by_filter: dict[str, Scored] = {}
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
        scored = by_filter.setdefault(str(row.get("filter", "none")), Scored([], chosen))
        scored.items.append(item)
    for name, scored in by_filter.items():
        yield (f"{task}/{name}" if len(by_filter) > 1 else task), scored


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
) -> Benchmarks:
    found: Benchmarks = {}
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
            known = "/".join(part for part in (domain, name) if part)
            found[known] = Scored([ScoredItem(*item) for item in items])
    return found
