"""What the commands share: their arguments and shell completion.

A mistake in a command line ends in one paragraph. The shell completes configuration keys in
overrides.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, final

import typer
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.exceptions import TyperException

from sweeps.cli.answer import Document, Problem, refuse
from sweeps.config.load import load_config
from sweeps.config.sweep_config import SweepConfig, paths_for
from sweeps.config.validation_errors import inner_model
from sweeps.storage.command_line import PROGRAM
from sweeps.storage.remote_sync import refresh
from sweeps.storage.terminal_output import fitted

_PYDANTIC = r"Input should be( a valid (number|integer).*)?"
SCRIPT = "gmt-sweep"
"""The installed command. Shells complete the first word: for `python -m sweeps` it is `python`."""

COMPLETING = "_GMT_SWEEP_COMPLETE"
"""Set by a shell that asks for completion."""


@final
class OneParagraphGroup(TyperGroup):
    """Explains a wrong command line in one paragraph and exits with code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; an empty one means ``--help``."""
        typed = list(sys.argv[1:] if args is None else args) or ["--help"]
        is_completion = typed[0] in ("--install-completion", "--show-completion")
        is_completion |= COMPLETING in os.environ
        prog_name = SCRIPT if is_completion else PROGRAM
        try:
            code = super().main(
                typed, prog_name, complete_var, False, windows_expand_args, **extra
            )
        except TyperException as error:
            if not standalone_mode:
                raise
            _explain(error, typed)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _explain(error: TyperException, typed: Sequence[str]) -> NoReturn:
    context = getattr(error, "ctx", None)
    command = context.info_name if context is not None and context.parent is not None else ""
    text = re.sub(_PYDANTIC, "expected a number", " ".join(error.format_message().split()))
    stop = "" if text.endswith((".", "?")) else "."
    help_of = " ".join(part for part in (PROGRAM, command, "--help") if part)
    said = f"{text[:1].lower()}{text[1:]}{stop} See `{help_of}`"
    if "--json" in typed:
        problem = Problem.of(said, 2)
        document = Document[None](command=command or "", result=None, error=problem)
        print(document.model_dump_json())
    else:
        print(fitted(f"error: {said}", sys.stderr), file=sys.stderr)
    sys.exit(2)


def complete_override(typed: str) -> list[str]:
    """The keys that start with ``typed``: ``search.tr`` gives ``search.trials=``.

    Completes one level at a time, as a shell completes folders: a section ends in a dot.
    """
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


ConfigFile = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="The sweep's YAML file, or the folder of a sweep: STORAGE/NAME."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Overrides, e.g. search.trials=4.",
        autocompletion=complete_override,
    ),
]


def load(config: str, overrides: list[str] | None) -> SweepConfig:
    """Load the sweep that a command line names; an object store's folder is fetched first.

    Raises:
        UserError: the configuration is wrong.
    """
    parsed = load_config(config, overrides or [])
    refresh(paths_for(parsed))
    return parsed


def load_stored(config: str, overrides: list[str] | None) -> SweepConfig:
    """Load the sweep that a command line names as it was last run; if never run, from its file.

    Raises:
        UserError: the configuration is wrong.
    """
    place = paths_for(load(config, overrides))
    return load(str(place.folder if place.config_file().is_file() else config), overrides)


def pairs(option: str, given: Sequence[str] | None, form: str) -> dict[str, str]:
    """The values of a repeatable option NAME=VALUE; each name and each value is given once."""
    found = [one.partition("=")[::2] for one in given or ()]
    if broken := [name for name, value in found if not name or not value]:
        refuse(f"{option} {broken[0]}: expected {form}")
    for words in zip(*found, strict=True):
        if several := [word for word in words if words.count(word) > 1]:
            refuse(
                f"{option}: {several[0]} is given {words.count(several[0])} times; expected once"
            )
    return dict(found)


def paper_remark(config: str, parsed: SweepConfig, following: str) -> list[str]:
    """A line for a YAML file that lists the studies of a paper, where a command takes only one.

    `following`: the command that takes all of them.
    """
    if not Path(config).is_file() or "paper" not in parsed.study.model_fields_set:
        return []
    listed = ", ".join(parsed.study.paper)
    return [
        f"This is the study '{parsed.study.kind}' alone. For all studies of the paper ({listed}): "
        f"`{following}`"
    ]


def skipped(metrics: Mapping[str, float]) -> list[str]:
    """A line that says how many bad training rows a run skipped, if any."""
    count = metrics.get("data/bad_rows")
    return [f"  skipped {count:.0f} bad training rows (on_bad_row: skip)"] if count else []
