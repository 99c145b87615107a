"""How YAML writes a searched parameter, with suggestions for the forms of other tools."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.config.validation_errors import as_yaml
from sweeps.storage.errors import nearest

FORMS = (
    "expected a number, a list such as [0, 0.2, 0.4] or a range such as "
    "{low: 0, high: 0.9, step: 0.1} or {low: 1e-5, high: 1e-3, log: true}"
)
RANGE, CHOICES = ("low", "high", "step", "log", "when"), ("choices", "when")
FORM_KEYS = frozenset((*RANGE, *CHOICES))

_KEYS = {
    **dict.fromkeys(("min", "lower", "lower_bound", "start", "from"), "low"),
    **dict.fromkeys(("max", "upper", "upper_bound", "stop", "end", "to"), "high"),
    **dict.fromkeys(("q", "step_size"), "step"),
    **dict.fromkeys(("values", "value", "grid_search", "choice", "categories"), "choices"),
}
"""Keys of Weights & Biases, Optuna, Ax and Hydra, and the matching key here."""

_KINDS = ("distribution", "type", "scale")
_KNOWN = (*RANGE, *CHOICES, *_KEYS, *_KINDS)

_CALL = re.compile(r"(?:\w+\.)*(\w+)\((.*)\)\s*", re.DOTALL)
"""For example ``tune.loguniform(1e-5, 1e-3)`` or ``trial.suggest_float("lr", 1e-5, 1e-3,
log=True)``."""


def plain_form(value: Any, words: Sequence[str] = ()) -> dict[str, Any]:
    """``{choices}`` or ``{low, high, ...}`` for a parameter in any of its YAML forms.

    ``words``: the values that the parameter takes, if these are words.

    Raises:
        ValueError: not one of these forms; the message lists them, and translates the form of
            another tool if it recognises one.
    """
    if isinstance(value, str):  # YAML 1.1 reads 1e-3, without a decimal point, as text
        value = _number(value)
    is_word = isinstance(value, str) and words and not _CALL.fullmatch(value)
    if value is None or isinstance(value, int | float) or is_word:
        return {"choices": [value]}
    if isinstance(value, list | tuple):
        return {"choices": value}
    if isinstance(value, Mapping) and (
        {"choices"} <= value.keys() <= {*CHOICES}
        or (not words and {"low", "high"} <= value.keys() <= {*RANGE})
    ):
        return dict(value)
    forms = f"expected a list such as [{', '.join(words[:2])}]" if words else FORMS
    raise ValueError(f"{forms}, got {as_yaml(value)}{_meant(value)}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _meant(value: Any) -> str:
    """A suggestion: another tool's form translated, or the nearest valid key."""
    ours = _called(value) if isinstance(value, str) else None
    if isinstance(value, Mapping):
        ours = _translated(value)
        unknown = [str(key) for key in value if str(key).lower() not in _KNOWN]
        if unknown:
            return f"; unknown key '{unknown[0]}' ({nearest(unknown[0], [*RANGE, *CHOICES])})"
    return "" if ours is None else f"; did you mean {as_yaml(ours)}?"


def _translated(value: Mapping[str, Any]) -> Any:
    """A mapping with other tools' keys, translated; None if it is not one."""
    ours = {_KEYS.get(str(key).lower(), str(key)): each for key, each in value.items()}
    if "choices" in ours:
        return ours["choices"]
    if "low" not in ours or "high" not in ours:
        return None
    kind = " ".join(str(ours.get(key, "")) for key in _KINDS).lower()
    log = ours.get("log") is True or "log" in kind
    return _range(ours["low"], ours["high"], None if log else ours.get("step"), log)


def _called(text: str) -> Any:
    """A call of a sampling function of Ray Tune, Optuna or Hyperopt, translated; else None."""
    found = _CALL.fullmatch(text.strip())
    if found is None:
        return None
    name = found[1].lower()
    try:
        call = ast.parse(f"f({found[2]})", mode="eval").body
        assert isinstance(call, ast.Call)
        given = [ast.literal_eval(argument) for argument in call.args]
        named = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (ValueError, SyntaxError, AssertionError, RecursionError):
        return None
    given = [one for one in given if not isinstance(one, str)]
    if given and isinstance(given[0], list | tuple):
        return list(given[0])
    ends = [*given, *(named[key] for key in ("low", "high", "step") if key in named)]
    if len(ends) < 2:
        return None
    log = "log" in name or named.get("log") is True
    step = ends[2] if len(ends) > 2 and not log else None
    return _range(ends[0], ends[1], step, log)


def _range(low: Any, high: Any, step: Any, log: bool) -> dict[str, Any]:
    rest = {"log": True} if log else {} if step is None else {"step": step}
    return {"low": low, "high": high, **rest}
