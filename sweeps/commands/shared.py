"""What the commands have in common: their arguments, and how mistakes end them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeps.commands.completion import complete_override
from sweeps.commands.group import PROGRAM

if TYPE_CHECKING:
    from sweeps.config import SweepConfig

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
        help="Overrides, as search.trials=4.",
        autocompletion=complete_override,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def load(config: str, overrides: list[str] | None) -> SweepConfig:
    """The sweep that a command line names; from an object store its folder is fetched first.

    Raises:
        UserError: what is wrong with it.
    """
    from sweeps.folder.load import load_config
    from sweeps.folder.place import place_of
    from sweeps.folder.stored import refresh

    parsed = load_config(config, overrides or [])
    refresh(place_of(parsed))
    return parsed


def load_stored(config: str, overrides: list[str] | None) -> SweepConfig:
    """The sweep that a command line names as it was run last, or else as its file has it.

    Raises:
        UserError: what is wrong with it.
    """
    from sweeps.folder.place import place_of

    place = place_of(load(config, overrides))
    return load(str(place.folder if place.config_file().is_file() else config), overrides)


def command_line(command: str, config: str, overrides: list[str] | None = None) -> str:
    """What to type, quoted for the shell."""
    return shlex.join([*PROGRAM.split(), command, config, *(overrides or [])])


@contextmanager
def mistakes_explained() -> Iterator[None]:
    """A mistake of the user ends in one paragraph and exit code 2, never in a traceback."""
    from sweeps.errors import UserError

    try:
        yield
    except UserError as error:
        refuse(str(error))


def refuse(message: str, code: int = 2) -> NoReturn:
    """End with a mistake's one paragraph, or with that of another trouble."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)
