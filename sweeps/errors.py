"""What a person did wrong, in one paragraph: the place, what was expected, the nearest name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints it and exits with code 2."""


class SecretError(ValueError):
    """A mistake with a secret in it, which no message may repeat."""


def nearest(word: str, known: list[str]) -> str:
    """``did you mean 'x'?`` or, with nothing near, the list of what is known."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "expected one of: " + ", ".join(sorted(known))


def explain(error: ValidationError, model: type[BaseModel], source: str) -> UserError:
    """A pydantic error as sentences with the place, what was expected and the nearest key."""
    details: list[dict[str, Any]] = [dict(detail) for detail in error.errors()]
    within = {detail["loc"][:-1] for detail in details}
    # Of a list whose only item is refused, pydantic says as well that it is too short.
    own = [d for d in details if d["type"] != "too_short" or d["loc"] not in within]
    lines = [_sentence(detail, model) for detail in own]
    return UserError(f"{source}: " + "; ".join(dict.fromkeys(lines)))


_CHOICE = re.compile(r"constrained-\w+$|literal\[")
"""How pydantic calls the members of a union, as if they were keys."""


def _sentence(detail: dict[str, Any], model: type[BaseModel]) -> str:
    location = tuple(part for part in detail["loc"] if not _CHOICE.match(str(part)))
    place = ".".join(str(part) for part in location)
    if detail["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key '{place}' ({nearest(str(location[-1]), known)})"
    if detail["type"] == "missing":
        return f"'{place}' is missing"
    if detail["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'|(True|False)", detail["ctx"]["expected"])
        allowed = [word or truth.lower() for word, truth in expected]
        word = str(detail["input"])
        return f"{place}: unknown value '{word}' ({nearest(word, allowed)})"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    is_secret = isinstance(detail.get("ctx", {}).get("error"), SecretError)
    given = None if is_secret else detail.get("input")
    shown = f", got {given!r}" if isinstance(given, str | int | float | bool) else ""
    sentence = f"{message}{shown if repr(given) not in message else ''}"
    return f"{place}: {sentence}" if place else sentence


def _keys_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys that ``model`` knows at a place such as ``("domains", "math", "data")``."""
    here: Any = model
    for part in location:
        fields = here.model_fields if _is_model(here) else {}
        # A mapping's key or a list's index says nothing about the type: stay at the same model.
        if part in fields:
            here = inner_model(fields[part].annotation) or here
    return list(here.model_fields)


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
