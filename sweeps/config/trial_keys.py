"""The settings of a run that a search may vary, by dotted key such as ``batch.mini_batch``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from sweeps.config.validation_errors import ELSEWHERE, UnknownKeyError, as_yaml, inner_model
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.run_identity import BESIDE_THE_RESULT
from sweeps.finetune.strict_model import takes_bool
from sweeps.storage.errors import nearest

Method = Literal["sft", "gmt", "random", "hft", "shira", "lora"]
METHODS: tuple[Method, ...] = get_args(Method)

Value = float | int | str
"""A parameter's value as Optuna, MLflow and the reports store it; see `stored`."""

SHORT = {"method.name": "method", "method.mask_ratio": "mask_ratio"}
"""Keys with a short name, which is the one on record."""

_LONG = {short: key for key, short in SHORT.items()}
# Other settings of the data change which rows are read; the rows are checked once a domain.
_OF_DATA = {"data.train_fraction", "data.max_length"}
_FIXED = {
    *BESIDE_THE_RESULT,
    "model",
    "evaluation",
    "seed",
    "parallel",
    "method.drop",
    "method.hft",
    "start_from",
}
_FIXED |= {f"data.{name}" for name in DataConfig.model_fields} - _OF_DATA

_EXPECTED = {
    "mask_ratio": (
        "a fraction in [0, 1), the share of gradient elements that is zeroed (0 is plain "
        "fine-tuning)"
    ),
    "learning_rate": "a number above 0",
    "accumulation_interval": "a whole number of mini-batches, 1 or more",
}


def _keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that may vary, with its type and bounds."""
    for name, field in model.model_fields.items():
        key, inside = f"{above}{name}", inner_model(field.annotation)
        if key in _FIXED:
            continue
        if inside is not None:
            yield from _keys(inside, f"{key}.")
        else:
            yield SHORT.get(key, key), field.rebuild_annotation()


KEYS: dict[str, Any] = {**dict(_keys(FinetuneConfig)), "method": Method}
"""The type of each key, with its bounds."""

_SECTIONS = {key.rpartition(".")[0] for key in (*KEYS, *SHORT)} - {""}


def flat(tree: Mapping[str, Any], forms: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A mapping by dotted or nested keys, as one by the keys on record.

    ``forms``: keys of a value that is a mapping itself and not a section.

    Raises:
        ValueError: a key is given twice.
    """
    found: dict[str, Any] = {}
    for key, value in _leaves(tree, forms):
        name = SHORT.get(key, key)
        if name in found:
            raise ValueError(f"{key} is given twice: expected each key once")
        found[name] = value
    return found


def _leaves(
    tree: Mapping[str, Any], forms: frozenset[str], above: str = ""
) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{above}{name}"
        if key in _SECTIONS and isinstance(value, Mapping) and not value.keys() & forms:
            yield from _leaves(value, forms, f"{key}.")
        else:
            yield key, value


def check_key(key: str) -> None:
    """Raise an error with the nearest spelling unless a search may vary this key."""
    if key in KEYS:
        return
    meant = ELSEWHERE.get(key.lower(), key)
    if any(f"{meant}.".startswith(f"{fixed}.") for fixed in _FIXED):
        raise ValueError(f"a search cannot vary this key: expected one of {', '.join(KEYS)}")
    ends = [known for known in KEYS if f".{known}".endswith(f".{meant}")]
    raise UnknownKeyError(f"did you mean '{ends[0]}'?" if ends else nearest(meant, [*KEYS]))


def checked(key: str, value: Any) -> Any:
    """A value of this key, converted to its type.

    Raises:
        ValueError: it has another type or is out of bounds.
    """
    if isinstance(value, bool) and not takes_bool(KEYS[key]):
        raise ValueError(f"expected no boolean (true, false, yes, no), got {value}")
    try:
        adapter = TypeAdapter[Any](KEYS[key], config=ConfigDict(allow_inf_nan=False))
        return adapter.validate_python(value)
    except ValidationError:
        if key not in _EXPECTED:
            raise
    raise ValueError(f"expected {_EXPECTED[key]}, got {value!s:.80}")


def is_of_method(key: str) -> bool:
    """Whether the key is one of the method's, which depend on each other."""
    return _LONG.get(key, key).startswith("method.")


def is_of_batch(key: str) -> bool:
    """Whether the key is one of those whose products must divide each other."""
    return key in ("examples", "accumulation_interval") or key.startswith("batch.")


def _types(annotation: Any) -> set[Any]:
    """The types of a key's values, and the words of a literal."""
    inside = set[Any]().union(*map(_types, get_args(annotation)))
    return inside | {get_origin(annotation) or annotation}


def is_whole(key: str) -> bool:
    """Whether the key takes whole numbers only."""
    return int in _types(KEYS[key])


def takes_list(key: str) -> bool:
    """Whether a single value of the key is a list."""
    return tuple in _types(KEYS[key])


def words(key: str) -> list[str]:
    """The words that the key takes; empty if it takes numbers."""
    if takes_bool(KEYS[key]):
        return ["false", "true"]
    return sorted(word for word in _types(KEYS[key]) if isinstance(word, str))


def stored(value: Any) -> Value:
    """A value as it is stored: a number, a word, or another value as JSON."""
    is_plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return cast(Value, value) if is_plain else json.dumps(value)


def placed(tree: Mapping[str, Any], key: str, value: Value) -> dict[str, Any]:
    """The tree of a run with a stored value at its key."""
    return _placed(tree, _LONG.get(key, key).split("."), _loaded(value))


def _placed(tree: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    if not rest:
        return {**tree, first: value}
    below = tree.get(first) or {}
    below = below.model_dump() if isinstance(below, BaseModel) else below
    return {**tree, first: _placed(below, rest, value)}


def value_of(run: BaseModel, key: str) -> Value:
    """The value of a run at a key, as it is stored; see `placed`."""
    here: Any = run
    for name in _LONG.get(key, key).split("."):
        here = getattr(here, name, None)
    return stored(here)


def _loaded(value: Value) -> Any:
    is_json = isinstance(value, str) and (value[:1] == "[" or value in ("null", "true", "false"))
    return json.loads(value) if is_json else value  # type: ignore[arg-type]


def shown(value: Any) -> str:
    """A value as text."""
    return f"{value:g}" if isinstance(stored(value), int | float) else as_yaml(value)
