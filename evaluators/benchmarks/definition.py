"""What a YAML file says of a user's benchmark, every value checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from evaluators.answers import EQUALITIES, EXTRACTIONS
from evaluators.benchmarks.template import FIELD
from evaluators.errors import DataError, missing_fields, unknown_name
from evaluators.files import read_text
from evaluators.protocol import Decoding, Protocol
from evaluators.sandbox import check_limits

REQUIRED = ("name", "version", "form", "prompt")
_KINDS = (
    ("str", "a text"),
    ("bool", "true or false"),
    ("int", "a whole number"),
    ("float", "a number"),
    ("tuple", "a list of texts"),
)
_EQUALITY_NAMES = (*EQUALITIES, "mathematics")
_DRAWN = ("stops", "max_new_tokens", "temperature", "top_p", "samples")
# The keys that only some forms have.
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "exact_match": ("answer", "extraction", "equality", "robust", *_DRAWN),
        "multiple_choice": ("answer", "choices", "labels", "delimiter"),
        "pass_at_k": ("tests", "k", "timeout", "memory_mb", "packages", *_DRAWN),
    }
)


@dataclass(frozen=True)
class Definition:
    """What a YAML file says. `prompt`, `reference`, `answer` and so on are templates.

    `choices`, `labels` and `tests` name the fields that hold lists. `answer` is, in the form
    multiple_choice, the right one of the `labels`, or its number from 0 or its letter.
    `delimiter` comes before each choice. `validation` is the fraction of the rows that a hash of
    the prompt keeps apart; without it the two splits are two files. `configuration` is the hub
    data set's. `packages` are those that programs may import, None for the usual ones.
    """

    name: str
    version: str
    form: str
    prompt: str
    reference: str = ""
    id: str = ""
    answer: str = ""
    choices: str = "choices"
    labels: str = ""
    delimiter: str = ""
    tests: str = "tests"
    group: str = ""
    cluster: str = ""
    configuration: str = ""
    stops: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    k: int = 1
    timeout: float = 5.0
    memory_mb: int = 512
    packages: tuple[str, ...] | None = None
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


def read_definition(path: Path) -> Definition:
    """The definition in a YAML file; DataError names the file, the key and the nearest one."""
    try:
        text = read_text(path)
        content, node = yaml.safe_load(text), yaml.compose(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise DataError(f"{path}: expected keys such as name, form and prompt, found no mapping")
    known = {field.name: field.type for field in fields(Definition)}
    try:
        for key, count in Counter(key.value for key, _ in node.value).items():
            if count > 1:
                raise ValueError(f"expected each key once, found {key!r} {count} times")
        for key, value in content.items():
            if key not in known:
                raise unknown_name("key", str(key), tuple(known))
            content[key] = _typed(key, str(known[key]), value)
        if not set(REQUIRED) <= content.keys():
            found = missing_fields(REQUIRED, content)
            raise ValueError(f"expected the keys {', '.join(REQUIRED)}, found {found}")
        definition = Definition(**content)
        _check(definition, content)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    return definition


def _check(given: Definition, keys: Mapping[str, object]) -> None:
    """Raise ValueError where values do not make a benchmark together."""
    for kind, name, names in (
        ("form", given.form, tuple(FORMS)),
        ("extraction", given.extraction, tuple(EXTRACTIONS)),
        ("equality", given.equality, _EQUALITY_NAMES),
    ):
        if name not in names:
            raise unknown_name(kind, name, names)
    _ = given.rules  # checks k and samples
    for key in keys:
        forms = [form for form, own in FORMS.items() if key in own]
        if forms and given.form not in forms:
            raise ValueError(f"{key!r} belongs to {' and '.join(forms)}, not to {given.form}")
    needed = (key for key in ("answer", "choices", "tests") if key in FORMS[given.form])
    for key in (*REQUIRED, *needed):
        if not getattr(given, key).strip():
            raise ValueError(f"expected {key!r} with a text, found none")
    # Without a field, every item would be asked the same, or have the same answer.
    for key in ("prompt", "answer") if given.form == "exact_match" else ("prompt",):
        if not FIELD.search(getattr(given, key)):
            raise ValueError(
                f"{key}: expected a field of the row, such as '{{question}}', found "
                f"{getattr(given, key)!r:.60}"
            )
    for key, good, expected in (
        ("max_new_tokens", given.max_new_tokens >= 1, "at least 1"),
        ("temperature", 0 <= given.temperature < 100, "0 or more"),
        ("top_p", 0 < given.top_p <= 1, "above 0, up to 1"),
        ("validation", given.validation is None or 0 < given.validation < 1, "between 0 and 1"),
    ):
        if not good:
            raise ValueError(f"{key}: expected {expected}, found {getattr(given, key)}")
    check_limits(given.timeout, given.memory_mb)


def _typed(key: str, kind: str, value: Any) -> Any:
    """`value` as the field's type, where YAML can mean it so."""
    if kind.startswith("tuple") and isinstance(value, list):
        if all(isinstance(each, str) and each for each in value):
            return tuple(value)
    elif kind.startswith("float") and isinstance(value, int | float):
        if not isinstance(value, bool):
            return float(value)
    elif type(value).__name__ == kind:
        return value
    words = next(words for name, words in _KINDS if kind.startswith(name))
    raise ValueError(f"expected {key!r} as {words}, found {value!r:.60}")
