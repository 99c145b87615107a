"""`python -m sweeps finetune`: one run, without Ray."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sweeps.cli.arguments import print_skipped, refuse
from sweeps.storage.interrupts import interruptible


def finetune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. learning_rate=1e-5."),
    ] = None,
) -> None:
    """Fine-tune one model without Ray. Run the same command to resume after an interruption.

    To use several processes: `torchrun --nproc-per-node 4 -m sweeps finetune my.yaml`.
    """
    from sweeps.execution.single_run import load_single_run, run_single

    leads = os.environ.get("RANK", "0") == "0"  # set by torchrun; only rank 0 prints
    try:
        with interruptible():
            parsed = load_single_run(config, overrides or [])
            result = run_single(parsed)
    except ValueError as error:
        if leads:
            refuse(str(error))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        if leads:
            print(
                "\nStopped. Run the same command to resume from the last checkpoint.",
                file=sys.stderr,
            )
        raise typer.Exit(130) from None
    if not leads:
        return
    if result.state == "diverged":
        print(f"diverged: {result.reason}")
        raise typer.Exit(1)
    print(f"score {result.score:.4f} on validation items after {result.step} updates")
    print_skipped(result.metrics)
    print(f"result:\n  {parsed.place() / 'result.json'}")
    if result.model_folder is not None:
        print(f"model:\n  {result.model_folder}")
