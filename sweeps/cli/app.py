"""The command line: ``python -m sweeps``, installed as ``gmt-sweep``."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Annotated, Any

import typer

from sweeps.cli.answer import Answer, as_command, refuse, schema_of
from sweeps.cli.arguments import OneParagraphGroup
from sweeps.cli.compare import compare
from sweeps.cli.doctor import doctor
from sweeps.cli.evaluate import evaluate_models
from sweeps.cli.finetune import finetune
from sweeps.cli.import_command import import_trials
from sweeps.cli.init import init
from sweeps.cli.leaderboard import leaderboard
from sweeps.cli.plan import plan
from sweeps.cli.report_and_export import export, report
from sweeps.cli.run import paper, resume, retry, run, validate
from sweeps.cli.status import status
from sweeps.cli.steer import fork, queue, stop
from sweeps.cli.ui import ui
from sweeps.storage.errors import nearest
from sweeps.storage.terminal_output import heard_program

app = typer.Typer(
    cls=OneParagraphGroup,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Fine-tune with Gradient-Mask Tuning, and find the mask ratio, accumulation interval
and learning rate that work for each domain.

A sweep is one YAML file: a model, domains (training data and benchmarks) and a search space.
Each domain is one Optuna study, run by Ray and recorded in MLflow, with a report.

**Start here**: `python -m sweeps run sweeps/configs/mini.yaml` runs three small domains on a
laptop's CPU. `init` writes your own file, `validate` checks it, and `plan` shows what it will
cost.

You can override any key: `run my.yaml search.trials=4 space.mask_ratio='[0, 0.2, 0.4]'`.
""",
)

COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Before": {"init": init, "validate": validate, "plan": plan, "doctor": doctor},
    "A sweep": {
        "run": run,
        "status": status,
        "stop": stop,
        "queue": queue,
        "fork": fork,
        "resume": resume,
        "retry": retry,
        "import": import_trials,
        "paper": paper,
    },
    "Results": {
        "leaderboard": leaderboard,
        "report": report,
        "compare": compare,
        "export": export,
        "ui": ui,
    },
    "One model": {"finetune": finetune, "eval": evaluate_models},
}


def schema(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="For example: status.")],
) -> Answer[dict[str, Any]]:
    """Print the JSON schema of what a command prints with `--json`."""
    functions = {name: each for panel in COMMANDS.values() for name, each in panel.items()}
    if command not in functions:
        refuse(f"no command '{command}' ({nearest(command, [*functions])})")
    found = schema_of(functions[command])
    return Answer(found, [json.dumps(found, indent=1)])


COMMANDS["Programs"] = {"schema": schema}

for panel, commands in COMMANDS.items():
    for name, function in commands.items():
        app.command(name, rich_help_panel=panel)(as_command(name, function))


def _say_version(asked: bool) -> None:
    if asked:
        print(f"gmt-sweep {metadata.version('gmt-sweep')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_say_version,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point."""
    try:
        with heard_program():
            app()
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes the rest at exit
        sys.exit(f"error: the output cannot be written: {error.strerror}")
    finally:
        gc.freeze()  # at exit Python would search a million objects for cycles, for seconds
