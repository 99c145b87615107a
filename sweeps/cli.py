"""The command line: ``python -m sweeps``, installed as ``gmt-sweep``."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeps.evaluate_command import evaluate_models
from sweeps.finetune_command import finetune

if TYPE_CHECKING:
    from types import FrameType

    from sweeps.report.data import TrialRow

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Fine-tune by Gradient-Mask Tuning, and find out per domain which mask ratio,
accumulation interval and learning rate work.

A sweep is one YAML file: a model, domains (training data and benchmarks) and a search space.
Every domain becomes one Optuna study, run by Ray, recorded in MLflow, with a report.

**Start here**: `python -m sweeps run sweeps/configs/mini.yaml` runs three small domains on a
laptop's CPU. `validate` says what is wrong with a file of your own before anything runs.

Any key may be overridden: `run my.yaml search.trials=4 space.mask_ratio='[0, 0.2, 0.4]'`.
""",
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="The sweep's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, as search.trials=4."),
]


@app.command()
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run every domain's study, or continue it: finished trials are never run again.

    Ctrl-C stops within seconds and keeps what is finished; the same command goes on from there.
    """
    from sweeps.load import load_config
    from sweeps.progress import build_display

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
    display = build_display()
    again = _run_command(config, overrides)
    try:
        with _mistakes_explained(), _signals_interrupt():
            from sweeps import study

            result = study.run(parsed, display)
    except KeyboardInterrupt:
        display.close()
        print(f"\nStopped. Finished trials are kept. To go on:\n  {again}", flush=True)
        raise typer.Exit(130) from None
    finally:
        display.close()
    for name, domain in result.domains.items():
        _print_best(name, domain.best)
    print()
    for label, text in _next_steps(result):
        print(f"{label}:\n  {text}")


@app.command()
def paper(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run every study of the paper, or go on with them, and write one report over all.

    `study.paper` lists them: search, sensitivity, methods, drop, data, efficiency. Each becomes a
    sweep of its own, NAME-KIND, and finished trials are never run again.
    """
    from sweeps.load import load_config
    from sweeps.progress import build_display

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
    display = build_display()
    try:
        with _mistakes_explained(), _signals_interrupt():
            from sweeps import paper as studies

            result = studies.run(parsed, display)
    except KeyboardInterrupt:
        display.close()
        again = _run_command(config, overrides).replace(" run ", " paper ", 1)
        print(f"\nStopped. Finished trials are kept. To go on:\n  {again}", flush=True)
        raise typer.Exit(130) from None
    finally:
        display.close()
    for label, text in (*result.links, ("report", str(result.html))):
        print(f"{label}:\n  {text}")


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a sweep's file, its model, every data row and the tracker. Nothing is started."""
    from sweeps.load import load_config

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
        from sweeps import study

        study.validate(parsed)
    domains = ", ".join(parsed.domains)
    kind = parsed.study.kind
    what = f"{parsed.search.trials * len(parsed.domains)} trials" if kind == "search" else kind
    print(f"{config} is fine: {what} over {domains}. Run it with:")
    print(f"  {_run_command(config, overrides)}")


@app.command()
def report(config: ConfigFile, overrides: Overrides = None) -> None:
    """Write the reports of a sweep again, finished or not, from its records alone."""
    from sweeps.load import load_config

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
        from sweeps import study

        for domain, paths in study.report(parsed).items():
            print(f"{domain}: {paths.html}")


@app.command()
def export(
    config: ConfigFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to; must be new.")],
    overrides: Overrides = None,
) -> None:
    """Write the best configuration as a single run's YAML, and its model with a model card."""
    from sweeps.load import load_config

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
        from sweeps.export import export as export_best

        for domain, found in export_best(parsed, folder).items():
            model = "its weights are gone" if found.model is None else str(found.model)
            print(f"{domain}: {found.config}\n{domain}: {model}")


@app.command()
def leaderboard(
    config: ConfigFile,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many trials per domain.")] = 10,
) -> None:
    """The best trials per domain, by score on the validation items; works while a sweep runs."""
    from sweeps.load import load_config

    with _mistakes_explained():
        parsed = load_config(config, overrides or [])
        from sweeps import study

        boards = {name: rows[:top] for name, rows in study.leaderboard(parsed).items()}
    if as_json:
        plain = {name: [_plain(row) for row in rows] for name, rows in boards.items()}
        print(json.dumps(plain, indent=1))
        return
    for name, rows in boards.items():
        _print_board(name, rows)


app.command()(finetune)
app.command("eval")(evaluate_models)


def main() -> None:
    """The entry point."""
    app()


def _run_command(config: str, overrides: list[str] | None) -> str:
    """What to type, quoted for the shell."""
    return shlex.join(["python", "-m", "sweeps", "run", config, *(overrides or [])])


@contextmanager
def _mistakes_explained() -> Iterator[None]:
    """A mistake of the user ends in one paragraph and exit code 2, never in a traceback."""
    from sweeps.errors import UserError

    try:
        yield
    except UserError as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A polite kill and a closed terminal end like Ctrl-C: trials are marked, processes gone."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _print_best(name: str, best: TrialRow | None) -> None:
    if best is None:
        print(f"{name}: no trial finished")
        return
    print(
        f"{name}: best score {best.score:.4f} on validation items with "
        f"mask_ratio {best.mask_ratio:g}, accumulation_interval {best.accumulation_interval}, "
        f"learning_rate {best.learning_rate:.2e} (trial {best.number})"
    )


def _next_steps(result: object) -> list[tuple[str, str]]:
    from sweeps.study import StudyResult
    from sweeps.tracking import SERVE

    assert isinstance(result, StudyResult)
    steps = [(f"{name}: report", str(d.report.html)) for name, d in result.domains.items()]
    shared = []
    for name, domain in result.domains.items():
        steps += [(f"{name}: {label}", text) for label, text in domain.links if label != SERVE]
        shared += [(label, text) for label, text in domain.links if label == SERVE]
    # The command that serves a local store is the same for all domains: said once.
    return list(dict.fromkeys([*shared, *steps]))


def _print_board(name: str, rows: list[TrialRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{name}: best trials by validation score")
    for column in ("", "trial", "score", "mask ratio", "N", "learning rate", "state", "seconds"):
        table.add_column(column, justify="right")
    for place, row in enumerate(rows, start=1):
        score = "" if row.score is None else f"{row.score:.4f}"
        table.add_row(
            str(place),
            str(row.number),
            score,
            f"{row.mask_ratio:g}",
            str(row.accumulation_interval),
            f"{row.learning_rate:.2e}",
            row.state.replace("_", " "),
            f"{row.seconds:.0f}",
        )
    Console().print(table)


def _plain(row: TrialRow) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(row), "metrics": dict(row.metrics)}
