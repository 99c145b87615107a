"""The name by which every text calls this program."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

PROGRAM = "python -m sweeps"
"""It works wherever the code is, also in a job on a cluster, where nothing is installed."""


def command_line(command: str, target: object, more: Sequence[str] | None = None) -> str:
    """The command to type, quoted for the shell: ``python -m sweeps resume runs/mini``."""
    return f"{PROGRAM} {shlex.join([command, str(target), *(more or ())])}"
