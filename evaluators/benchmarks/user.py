"""Benchmarks of your own: a YAML file for the common forms, or a Python file for any other.

See docs/evaluation.md for an example of each. A YAML file names a `form` (exact_match,
multiple_choice, pass_at_k), templates in which {field} stands for a field of a row, and what the
protocol needs. A Python file defines `benchmark(metric, sandbox)`, which returns a `Benchmark`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import yaml

from evaluators.answers import EQUALITIES, EXTRACTIONS
from evaluators.benchmark import Benchmark, Item, Split
from evaluators.benchmarks.answered import AnswerBenchmark
from evaluators.benchmarks.choice import NORMALISED, ChoiceBenchmark
from evaluators.benchmarks.program import Limits, ProgramBenchmark
from evaluators.errors import DataError, missing_fields, unknown_name
from evaluators.files import read_text
from evaluators.protocol import Changes, Decoding, Protocol
from evaluators.rows import HubSplit, read_rows, strings
from evaluators.split import is_validation

FORMS = ("exact_match", "multiple_choice", "pass_at_k")
_FIELD = re.compile(r"\{(\w+)\}")
_EQUALITY_NAMES = (*EQUALITIES, "mathematics")


@dataclass(frozen=True)
class Definition:
    """What a YAML file says. `prompt`, `reference`, `answer` and so on are templates.

    `choices` and `tests` name the fields that hold lists of strings; `answer` is the index of
    the right choice in the form multiple_choice. `validation` is the fraction of the rows that a
    hash of the prompt keeps apart; without it the two splits are two files.
    """

    name: str
    version: str
    form: str
    prompt: str
    reference: str = ""
    id: str = ""
    answer: str = ""
    choices: str = "choices"
    tests: str = "tests"
    group: str = ""
    cluster: str = ""
    stops: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    k: int = 1
    timeout: float = 5.0
    extraction: str = "first_line"
    equality: str = "normalised"
    robust: bool = False
    validation: float | None = None

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        metric = f"pass@{self.k}" if self.form == "pass_at_k" else "accuracy"
        return Protocol(
            version=self.version,
            validation="a file of its own"
            if self.validation is None
            else f"the prompts whose hash is in the first {self.validation:.0%}; test: the others",
            prompt=self.prompt,
            decoding=Decoding(
                self.max_new_tokens,
                self.stops,
                self.temperature,
                self.top_p,
                self.samples,
                self.k,
            ),
            extraction=self.extraction if self.form == "exact_match" else self.form,
            equality=self.equality if self.form == "exact_match" else "",
            metric=metric,
            aggregation="groups" if self.group else "items",
            robust=self.robust,
        )


def build_user_benchmark(
    path: str,
    *,
    metric: str | None,
    sandbox: str | None,
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
    match definition.form:
        case "exact_match":
            return _Answers(chosen, definition)
        case "multiple_choice":
            return _Choices(chosen, definition)
        case _:
            return _Programs(chosen, definition, sandbox)


def read_definition(path: Path) -> Definition:
    """The definition in a YAML file; DataError names the file, the key and the nearest one."""
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    known = {field.name: field.type for field in fields(Definition)}
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys such as name, form and prompt, found no mapping")
    for key, value in content.items():
        if key not in known:
            raise DataError(f"{path}: {unknown_name('key', str(key), tuple(known))}")
        content[key] = _typed(path, key, str(known[key]), value)
    required = ("name", "version", "form", "prompt")
    if not set(required) <= content.keys():
        raise DataError(
            f"{path}: expected the keys {', '.join(required)}, found "
            f"{missing_fields(required, content)}"
        )
    definition = Definition(**content)
    for kind, name, names in (
        ("form", definition.form, FORMS),
        ("extraction", definition.extraction, tuple(EXTRACTIONS)),
        ("equality", definition.equality, _EQUALITY_NAMES),
    ):
        if name not in names:
            raise DataError(f"{path}: {unknown_name(kind, name, names)}")
    try:
        _ = definition.rules  # checks the numbers
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return definition


def _typed(path: Path, key: str, kind: str, value: Any) -> Any:
    """`value` as the field's type, where YAML can mean it so."""
    if kind.startswith("tuple") and isinstance(value, list):
        if all(isinstance(each, str) and each for each in value):
            return tuple(value)
    elif kind.startswith("float") and isinstance(value, int | float):
        if not isinstance(value, bool):
            return float(value)
    elif type(value).__name__ == kind:
        return value
    raise DataError(f"{path}: expected {key!r} as {kind}, found {value!r:.60}")


@dataclass(frozen=True)
class _Row:
    """A row with its place, for templates."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def filled(self, template: str) -> str:
        """`template` with the row's fields in it."""

        def value(match: re.Match[str]) -> str:
            self.require(match[1])
            return str(self.values[match[1]])

        return _FIELD.sub(value, template)

    def require(self, name: str) -> None:
        if name not in self.values:
            found = missing_fields([name], self.values)
            raise DataError.at(self.path, self.line, f"a field {name!r}", found)

    def strings(self, name: str) -> tuple[str, ...]:
        """The list of strings in the field `name`."""
        self.require(name)
        if isinstance(self.values[name], str):
            return (self.values[name],)
        return strings(self.path, self.line, self.values, name)


def _rows(definition: Definition, path: Path, split: Split) -> Iterator[tuple[_Row, Item]]:
    """The rows of `split`, each with an item that holds what all forms share."""
    hub = HubSplit("test" if split == "all" else split)
    fraction = definition.validation
    for line, values in read_rows(path, {}, hub):
        row = _Row(path, line, values)
        prompt = row.filled(definition.prompt)
        held = fraction is not None and is_validation(prompt, fraction)
        if split == "all" or fraction is None or held == (split == "validation"):
            yield (
                row,
                Item(
                    id=row.filled(definition.id) or f"{definition.name}/{line}",
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
        answer = self._definition.answer
        return [
            replace(
                item, answer=row.filled(answer), reference=item.reference or row.filled(answer)
            )
            for row, item in _rows(self._definition, path, split)
        ]


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
            choices = row.strings(self._definition.choices)
            answer = row.filled(self._definition.answer)
            if not answer.isdecimal() or int(answer) >= len(choices):
                expected = f"an answer from 0 to {len(choices) - 1}"
                raise DataError.at(path, row.line, expected, repr(answer))
            right = choices[int(answer)]
            items.append(
                replace(item, choices=choices, answer=answer, reference=item.reference or right)
            )
        return items


@final
class _Programs(ProgramBenchmark):
    def __init__(self, metric: str, definition: Definition, sandbox: str | None) -> None:
        super().__init__(metric, definition.rules, sandbox=sandbox)
        self.name = definition.name
        self.limits = Limits(definition.timeout)
        self._definition = definition
        self.splits_are_files = definition.validation is None

    def load(self, path: Path, split: Split) -> list[Item]:
        """The rows of `split`."""
        return [
            replace(item, tests=row.strings(self._definition.tests))
            for row, item in _rows(self._definition, path, split)
        ]


def _from_module(path: Path, metric: str | None, sandbox: str | None) -> Benchmark:
    """The benchmark that the function `benchmark` of a Python file returns."""
    if not path.is_file():
        raise DataError(f"{path}: expected a Python file, found none")
    spec = importlib.util.spec_from_file_location(f"user_benchmark_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, "benchmark", None)
    if not callable(make):
        raise DataError(f"{path}: expected a function benchmark(metric, sandbox), found none")
    built = make(metric, sandbox)
    if not isinstance(built, Benchmark):
        raise DataError(
            f"{path}: expected benchmark() to return a Benchmark, found {type(built).__name__}"
        )
    return built
