"""Errors of a configuration as one paragraph: the place, what was expected, the nearest key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sweeps.storage.errors import SecretError, UserError, nearest

Model = TypeVar("Model", bound=BaseModel)

SHOWN = 80
"""How many characters of a value a message repeats."""


class UnknownKeyError(ValueError):
    """A key that no model field declares; the message is the nearest valid one."""


def as_yaml(value: Any) -> str:
    """A value as one line of YAML, truncated if long."""
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=2**31, sort_keys=False)
    except (yaml.YAMLError, RecursionError):
        text = repr(value)
    text = " ".join(text.removesuffix("...\n").split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def explain(error: ValidationError, model: type[BaseModel], source: str) -> UserError:
    """A pydantic error as sentences: the place, what was expected and the nearest key."""
    details: list[dict[str, Any]] = [dict(detail) for detail in error.errors()]
    places = [detail["loc"] for detail in details]
    lines = [_sentence(d, model) for d in details if not _follows(d, places)]
    return UserError(f"{source}: " + "; ".join(dict.fromkeys(lines)))


def checked(model: type[Model], source: str, values: Mapping[str, Any]) -> Model:
    """A model of these values.

    Raises:
        UserError: as formatted by ``explain``.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, model, source) from None


def _follows(detail: dict[str, Any], places: list[tuple[Any, ...]]) -> bool:
    """Whether this error only repeats another one with the same cause.

    Examples: a list is "too short" because its items were rejected; a value that is not a number
    is also not a whole number.
    """
    place = detail["loc"]
    if place[-1:] == ("int",):
        return (*place[:-1], "float") in places
    return detail["type"] == "too_short" and any(
        len(each) > len(place) and each[: len(place)] == place for each in places
    )


_CHOICE = re.compile(r"constrained-\w+$|literal\[|\[key\]$")
"""Pydantic's labels for the members of a union and for a mapping's keys, which look like keys."""

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("int_parsing_size",), "expected a whole number below 2^63"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    "finite_number": "expected a finite number",
    "string_too_short": "expected some text",
    "too_short": "expected at least one entry",
    "string_pattern_mismatch": (
        "expected a letter or digit, then up to 63 letters, digits, '.', '_' or '-'"
    ),
}


def _sentence(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = tuple(part for part in detail["loc"] if not _CHOICE.match(str(part)))
    if location[-1:] == ("float",) and detail["type"].startswith("float"):
        location = location[:-1]  # part of the union with int
    place = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden" and ".".join(map(str, location[-2:])) in RENAMED:
        return _renamed(location, model, detail["input"])
    if detail["type"] == "extra_forbidden":
        may_hold_anchors = len(location) == 1 and isinstance(detail["input"], dict | list)
        cutoff = 0.75 if may_hold_anchors else 0.5
        right, aside = _right_key(str(location[-1]), location[:-1], model, cutoff), ""
        if may_hold_anchors and not get_close_matches(place, list(model.model_fields), 1, cutoff):
            aside = f"; a key that only holds YAML anchors starts with x-, such as 'x-{place}'"
        return f"unknown key '{place}' ({right}){aside}"
    if isinstance(error := detail.get("ctx", {}).get("error"), UnknownKeyError):
        return f"unknown key '{place}' ({error})"
    if detail["type"] == "missing":
        return f"'{place}' is missing"
    if detail["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'|(True|False)", detail["ctx"]["expected"])
        allowed = [word or truth.lower() for word, truth in expected]
        word = str(detail["input"])
        return f"{place}: unknown value '{word}' ({nearest(word, allowed)})"
    message, given = _expected(detail, _annotation_at(model, location)), detail.get("input")
    if isinstance(detail.get("ctx", {}).get("error"), SecretError):
        return f"{place}: {message}" if place else message
    if ", got " not in message and (given is None or isinstance(given, str | int | float)):
        shown = "nothing (null)" if given is None else repr(given)
        if shown not in message:
            message += f", got {shown if len(shown) <= SHOWN else f'{shown[:SHOWN]}...'}"
    return f"{place}: {message}" if place else message


def _expected(detail: dict[str, Any], annotation: Any) -> str:
    """What was expected, with an example if a single value was given for a list or mapping."""
    kind, given = detail["type"], detail.get("input")
    if kind == "string_type":
        scalar = given is not None and not isinstance(given, dict | list)
        return "expected text" + (f" in quotes: '{given}'" if scalar else "")
    if kind in ("tuple_type", "list_type"):
        item = next((part for part in get_args(annotation) if inner_model(part)), None)
        inside = _as_keys(inner_model(item), given) if item is not None else given
        return f"expected a list{_such_as([given if inside is None else inside], given)}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        inner = inner_model(annotation)
        if kind == "dict_type" or inner is None:
            return f"expected keys with values below them, got {as_yaml(given)}"
        keys = _as_keys(inner, given)
        known = f" ({', '.join(inner.model_fields)})" if keys is None else ""
        return f"expected keys with values{known}{_such_as(keys, given)}"
    if kind == "int_parsing" and (whole := _whole(given)) is not None:
        return f"expected a whole number, for example {whole}"
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message.replace("Input should be", "expected a number", 1)


def _whole(given: Any) -> int | None:
    """The number meant by ``1e5``, which YAML reads as text."""
    try:
        return int(number) if (number := float(given)).is_integer() else None
    except (ValueError, TypeError):
        return None


def _such_as(example: Any, given: Any) -> str:
    known = example is not None and given is not None
    return f", such as {as_yaml(example)}" if known else ""


def _as_keys(model: type[BaseModel] | None, given: Any) -> Any:
    """``{name: asha}`` for "asha": the first key of ``model`` that accepts the value.

    Returns a mapping unchanged, and None if no key accepts the value or a similar word.
    """
    if model is None or isinstance(given, dict):
        return given
    for name, field in model.model_fields.items():
        try:
            TypeAdapter(field.rebuild_annotation()).validate_python(given, strict=True)
        except ValidationError:
            continue
        return {name: given}
    for name, field in model.model_fields.items():
        words = [word for word in get_args(field.annotation) if isinstance(word, str)]
        if close := get_close_matches(str(given), words, n=1):
            return {name: close[0]}
    return None


def _renamed(location: tuple[Any, ...], model: type[BaseModel], given: Any) -> str:
    """What a key of an older version is called now, with its value, or what that may be."""
    *above, old = map(str, location)
    key = RENAMED[f"{above[-1]}.{old}"]
    allowed = get_args(_annotation_at(model, (*location[:-1], key)))
    example = given if given in allowed else allowed[0]
    before, now = ".".join((*above, old)), ".".join((*above, key))
    return f"unknown key '{before}': since 0.2.0 it is '{now}', for example {key}: {example}"


def _right_key(word: str, above: tuple[Any, ...], model: type[BaseModel], cutoff: float) -> str:
    """The key that was probably meant: a sibling, or our name for another tool's key."""
    here = _keys_at(model, above)
    close = get_close_matches(word, here, n=1, cutoff=0.8)
    elsewhere = ELSEWHERE.get(word.lower(), word)
    if elsewhere in here and not close:
        return f"did you mean '{elsewhere}'?"
    places = [path for path in _paths(model) if f".{path}".endswith(f".{elsewhere}")]
    if places and not close:
        section = ".".join(map(str, above[:1]))
        places = [path for path in places if path.startswith(f"{section}.")] or places
        least = min(path.count(".") for path in places)
        meant = [f"'{path}'" for path in places if path.count(".") == least]
        return f"did you mean {' or '.join(meant)}?"
    return nearest(word, here, cutoff)


def _paths(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key below a model, as ``domains.NAME.data.path``."""
    for name, field in model.model_fields.items():
        path = f"{above}.{name}" if above else name
        yield path
        inside = inner_model(field.annotation)
        if inside is not None:
            many = {dict: ".NAME", tuple: ".0"}.get(get_origin(field.annotation) or model, "")
            yield from _paths(inside, path + many)


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys of ``model`` at a location such as ``("domains", "math", "data")``."""
    inside = inner_model(_annotation_at(model, location))
    return list((inside or model).model_fields)


def _annotation_at(model: type[BaseModel], location: tuple[Any, ...]) -> Any:
    """The type at a location: of a key, a list or a list item."""
    here: Any = model
    for part in location:
        inside = inner_model(here)
        is_many = get_origin(here) in (dict, tuple)
        fields = {} if inside is None or is_many else inside.model_fields
        # A mapping's key or a list index: continue with the model inside.
        here = fields[part].annotation if part in fields else inside or here
    return here


def _is_model(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, BaseModel)


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside ``dict[str, M]``, ``tuple[M, ...]``, ``M | None`` or ``M``."""
    if _is_model(annotation):
        found: type[BaseModel] = annotation
        return found
    for part in getattr(annotation, "__args__", ()):
        inside = inner_model(part)
        if inside is not None:
            return inside
    return None


RENAMED = {"batch.hold": "fixed"}
"""What keys of 0.1.0, each a choice of words, are called since 0.2.0, at the same place."""

ELSEWHERE = {
    theirs: ours
    for ours, names in {
        "learning_rate": "lr lrs learning_rates peak_lr max_lr",
        "mask_ratio": "ratio mask_rate sparsity mask_percent mask_percentage",
        "accumulation_interval": (
            "gradient_accumulation_steps gradient_accumulation grad_accum grad_accumulation "
            "grad_accum_steps accumulate_grad_batches accumulation_steps accumulation"
        ),
        "space": "parameters search_space param_space hyperparameters",
        "trials": "num_samples n_trials num_trials max_trials run_cap total_trials",
        "sampler": "search_alg algorithm tuner",
        "scheduler": "pruner early_terminate early_stopping",
        "objectives": "metric metrics objective goal mode direction directions",
        "concurrency": "max_concurrent_trials max_concurrent n_jobs parallel_trials",
        "workers": "num_workers nproc_per_node world_size",
        "gpus_per_worker": "num_gpus gpus num_gpus_per_worker gpus_per_trial",
        "mini_batch": (
            "batch_size per_device_train_batch_size per_device_batch_size micro_batch_size "
            "micro_batch train_batch_size"
        ),
        "global_batch": "global_batch_size effective_batch_size",
        "examples": "epochs num_epochs num_train_epochs max_steps train_steps total_steps",
        "clip_norm": "max_grad_norm gradient_clip_val gradient_clipping grad_clip",
        "weight_decay": "wd",
        "warmup_ratio": "warmup warmup_steps",
        "optimizer": "optim",
        "schedule": "lr_scheduler lr_scheduler_type lr_schedule",
        "betas": "adam_beta1 adam_beta2 beta1 beta2",
        "dtype": "torch_dtype precision bf16 fp16",
        "attention": "attn_implementation",
        "max_length": "max_seq_length max_seq_len cutoff_len seq_len block_size",
        "constraints": "constraints_func outcome_constraints",
        "storage": "output_dir storage_path local_dir",
        "uri": "tracking_uri report_to",
        "benchmarks": "tasks evaluators",
        "wall_hours": "time_budget_s timeout max_time",
        "seed": "random_seed random_state",
        "model.path": "model_name_or_path model_name pretrained base_model",
        "data.path": "dataset dataset_name train_file dataset_path",
        "rank": "r lora_r lora_rank",
        "alpha": "lora_alpha",
        "targets": "target_modules lora_target lora_target_modules",
        "sources": "datasets mixture dataset_mixer",
        "columns": "column_mapping column_names",
    }.items()
    for theirs in names.split()
}
"""Names of our keys in Ray Tune, Optuna, Weights & Biases and common trainers."""
