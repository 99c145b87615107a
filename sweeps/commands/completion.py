"""What the shell completes: the keys of a sweep's configuration, in overrides."""

from __future__ import annotations


def complete_override(typed: str) -> list[str]:
    """The keys that begin as ``typed`` does: ``search.tr`` gives ``search.trials=``.

    One level at a time, as a shell completes folders: a section ends in a point.
    """
    from pydantic import BaseModel

    from sweeps.config import SweepConfig
    from sweeps.errors import inner_model

    *parents, begun = typed.split(".")
    here: type[BaseModel] = SweepConfig
    for parent in parents:
        field = here.model_fields.get(parent)
        inner = None if field is None else inner_model(field.annotation)
        if inner is None:
            return []
        here = inner
    found = []
    for name, field in here.model_fields.items():
        if name.startswith(begun):
            is_section = inner_model(field.annotation) is not None
            found.append(".".join([*parents, name]) + ("." if is_section else "="))
    return found
