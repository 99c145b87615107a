"""`python -m sweeps finetune`: one run, without Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, Problem, refuse, stopped
from sweeps.cli.arguments import skipped
from sweeps.cli.command_results import FinetuneEnd
from sweeps.storage.interrupts import interruptible


def finetune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. learning_rate=1e-5."),
    ] = None,
) -> Answer[FinetuneEnd]:
    """Fine-tune one model without Ray. Run the same command to resume after an interruption.

    To use several processes: `torchrun --nproc-per-node 4 -m sweeps finetune my.yaml`.
    """
    from sweeps.execution.single_run import load_single_run, run_single

    leads = os.environ.get("RANK", "0") == "0"  # set by torchrun; only rank 0 prints
    try:
        with interruptible():
            parsed = load_single_run(config, overrides or [])
            done = run_single(parsed)
    except ValueError as error:
        if not leads:
            raise typer.Exit(2) from None
        refuse(str(error))
    except KeyboardInterrupt:
        if not leads:
            raise typer.Exit(130) from None
        raise stopped(
            "Stopped. Run the same command to resume from the last checkpoint."
        ) from None
    if not leads:
        raise typer.Exit(0)
    file = parsed.place() / "result.json"
    result = FinetuneEnd.model_validate({**vars(done), "result": file})
    if result.state == "diverged":
        return Answer(result, problem=Problem.of(f"diverged: {result.reason}", 1))
    return Answer(result, _lines(result))


def _lines(result: FinetuneEnd) -> Iterator[str]:
    yield f"score {result.score:.4f} on validation items after {result.step} updates"
    yield from skipped(result.metrics)
    yield f"result:\n  {result.result}"
    if result.model_folder is not None:
        yield f"model:\n  {result.model_folder}"
