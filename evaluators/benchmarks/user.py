"""Benchmarks of your own: a YAML file for the common forms, or Python for any other.

See docs/evaluation.md for an example of each. A Python file defines `benchmark(metric, sandbox)`,
which returns a `Benchmark`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import final

from evaluators.benchmark import Benchmark, Item, Split
from evaluators.benchmarks.choice import NORMALISED, ChoiceBenchmark
from evaluators.benchmarks.definition import Definition, read_definition
from evaluators.benchmarks.final_answer import AnswerBenchmark
from evaluators.benchmarks.program import Limits, ProgramBenchmark
from evaluators.benchmarks.template import TemplateRow
from evaluators.errors import DataError, unknown_name
from evaluators.protocol import Changes
from evaluators.rows import HubSplit, read_rows
from evaluators.sandbox import Sandbox, no_sandbox
from evaluators.split import is_validation


def build_user_benchmark(
    path: str,
    *,
    metric: str | None,
    sandbox: str | Sandbox | None,
    preset: str | None,
    changes: Changes,
) -> Benchmark:
    """The benchmark that the file at `path` defines."""
    if preset is not None:
        raise ValueError(f"{path} has one protocol; expected no preset, found {preset!r}")
    if path.endswith(".py"):
        if changes.decoding():
            raise ValueError(f"{path} decides its decoding; found {', '.join(changes.decoding())}")
        return _from_module(Path(path), metric, sandbox)
    definition = read_definition(Path(path))
    if definition.form == "multiple_choice" and changes.decoding():
        named = ", ".join(changes.decoding())
        raise ValueError(f"{path} compares likelihoods and generates no text; found {named}")
    definition = replace(definition, **changes.decoding())
    own = definition.rules.metric
    chosen = own if metric is None else metric
    further = (NORMALISED,) if definition.form == "multiple_choice" else ()
    if chosen not in (own, *further, "bits_per_byte"):
        raise unknown_name(f"metric of {path}", chosen, (own, *further, "bits_per_byte"))
    if sandbox is not None and definition.form != "pass_at_k":
        raise no_sandbox(path, sandbox)
    match definition.form:
        case "exact_match":
            return _Answers(chosen, definition)
        case "multiple_choice":
            return _Choices(chosen, definition)
        case _:
            return _Programs(chosen, definition, sandbox)


def own_runs_code(path: str) -> bool:
    """Whether the file at `path` takes a sandbox; one in Python decides for itself."""
    return path.endswith(".py") or read_definition(Path(path)).form == "pass_at_k"


def _rows(definition: Definition, path: Path, split: Split) -> Iterator[tuple[TemplateRow, Item]]:
    """The rows of `split`, each with an item that holds what all forms share."""
    configurations = (definition.configuration or None,)
    hub = HubSplit("test" if split == "all" else split, configurations)
    fraction = definition.validation
    lines: dict[str, int] = {}
    for line, values in read_rows(path, {}, hub):
        row = TemplateRow(path, line, values)
        prompt = row.text(definition.prompt)
        name = row.filled(definition.id) or f"{definition.name}/{line}"
        if lines.setdefault(name, line) != line:
            raise row.error(f"an id of its own, as 'id: {definition.id}'", f"{name!r} again")
        held = fraction is not None and is_validation(prompt, fraction)
        if split == "all" or fraction is None or held == (split == "validation"):
            yield (
                row,
                Item(
                    id=name,
                    prompt=prompt,
                    reference=row.filled(definition.reference),
                    group=row.filled(definition.group),
                    cluster=row.filled(definition.cluster),
                ),
            )


@final
class _Answers(AnswerBenchmark):
    def __init__(self, metric: str, definition: Definition) -> None:
        super().__init__(metric, definition.rules)
        self.name = definition.name
        self._definition = definition
        self.splits_are_files = definition.validation is None

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of `split`."""
        items = []
        for row, item in _rows(self._definition, path, split):
            answer = row.text(self._definition.answer)
            items.append(replace(item, answer=answer, reference=item.reference or answer))
        return items


@final
class _Choices(ChoiceBenchmark):
    def __init__(self, metric: str, definition: Definition) -> None:
        super().__init__(metric, definition.rules)
        self.name = definition.name
        self._definition = definition
        self.splits_are_files = definition.validation is None

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of `split`."""
        items = []
        for row, item in _rows(self._definition, path, split):
            before = self._definition.delimiter
            choices = tuple(before + each for each in row.choices(self._definition.choices))
            labels = self._definition.labels
            place = row.place(self._definition.answer, len(choices), labels)
            reference = item.reference or choices[place]
            items.append(replace(item, choices=choices, answer=str(place), reference=reference))
        return items


@final
class _Programs(ProgramBenchmark):
    def __init__(self, metric: str, definition: Definition, sandbox: str | Sandbox | None) -> None:
        limits = Limits(definition.timeout, definition.memory_mb, inside=True)
        if definition.packages is not None:
            limits = replace(limits, packages=definition.packages)
        super().__init__(metric, definition.rules, limits, sandbox=sandbox)
        self.name = definition.name
        self._definition = definition
        self.splits_are_files = definition.validation is None

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of `split`."""
        return [
            replace(item, tests=row.tests(self._definition.tests))
            for row, item in _rows(self._definition, path, split)
        ]


def made_by(
    place: str, make: object, metric: str | None, sandbox: str | Sandbox | None
) -> Benchmark:
    """What the function `make` of a user returns; a mistake in it is a DataError at `place`."""
    if not callable(make):
        raise DataError(f"{place}: expected a function benchmark(metric, sandbox), found none")
    try:
        built = make(metric, sandbox)
    except Exception as error:
        raise DataError(f"{place}: benchmark() failed: {type(error).__name__}: {error}") from error
    if not isinstance(built, Benchmark):
        raise DataError(
            f"{place}: expected benchmark() to return a Benchmark, found {type(built).__name__}"
        )
    return built


def _from_module(path: Path, metric: str | None, sandbox: str | Sandbox | None) -> Benchmark:
    """The benchmark that the function `benchmark` of a Python file returns."""
    if not path.is_file():
        raise DataError(f"{path}: expected a Python file, found none")
    spec = importlib.util.spec_from_file_location(f"user_benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: expected a file that Python can run: {said}") from error
    return made_by(str(path), getattr(module, "benchmark", None), metric, sandbox)
