"""The group of all commands: whatever is mistyped is answered in one paragraph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn, final

from typer.core import TyperGroup
from typer.exceptions import TyperException

PROGRAM = "python -m sweeps"
SCRIPT = "gmt-sweep"
"""The installed command. Shells complete by one word: of `python -m sweeps` that were `python`."""


@final
class OneParagraphGroup(TyperGroup):
    """Says what is wrong with a command line in one paragraph, with exit code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; nothing typed stands for ``--help``."""
        typed = list(sys.argv[1:] if args is None else args) or ["--help"]
        if typed[0] in ("--install-completion", "--show-completion"):
            prog_name = SCRIPT
        try:
            code = super().main(
                typed, prog_name, complete_var, False, windows_expand_args, **extra
            )
        except TyperException as error:
            if not standalone_mode:
                raise
            _explain(error)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _explain(error: TyperException) -> NoReturn:
    context = getattr(error, "ctx", None)
    command = context.info_name if context is not None and context.parent is not None else ""
    text = " ".join(error.format_message().split())
    stop = "" if text.endswith((".", "?")) else "."
    help_of = " ".join(part for part in (PROGRAM, command, "--help") if part)
    said = f"{text[:1].lower()}{text[1:]}{stop}"
    print(f"error: {said} `{help_of}` shows what there is", file=sys.stderr)
    sys.exit(2)
