"""``init``: write a first configuration, with a comment at each choice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.answer import Answer, refuse
from sweeps.cli.arguments import pairs
from sweeps.cli.config_template import (
    MINI_MODEL,
    OwnData,
    configuration,
    default_length,
    mini_domain,
    mini_domains,
    model_facts,
)
from sweeps.cli.row_format import DEFAULT, RowFormat, guess_format
from sweeps.config.load import parse_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution.preflight import check_inputs
from sweeps.storage.command_line import command_line

_Own = "For your own domain: "


def init(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write; must not exist.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A model folder, a hub name, or mini:model (included)."),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="math, code or general from the embedded world, or the name of your own domain."
        ),
    ] = None,
    train: Annotated[str | None, typer.Option(help=f"{_Own}the training rows.")] = None,
    data_format: Annotated[
        str | None,
        typer.Option(
            "--format", help=f"{_Own}the format of a training row; guessed from the first one."
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help=f"{_Own}the column of a field, e.g. prompt=question. Repeatable.",
        ),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help=f"{_Own}the benchmark; exact_match if not given.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help=f"{_Own}validation items, used for selection.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(help=f"{_Own}test items, used for the report.")
    ] = None,
) -> Answer[Path]:
    """Write a commented configuration for a model and its domains. Never overwrites a file.

    On a terminal, asks for the model and the domains if they are not given.
    """
    if path.exists():
        refuse(f"{path} already exists: give another file, or remove it")
    if path.suffix not in (".yaml", ".yml"):
        refuse(f"{path}: expected a file that ends in .yaml")
    asks = sys.stdin.isatty() and sys.stdout.isatty()
    model = model or _ask("Model (folder, hub name, mini:model)", MINI_MODEL, asks)
    columns = pairs("--column", column, "FIELD=COLUMN, for example prompt=question")
    own = _own_data(train, data_format, columns, benchmark, validation, test)
    remark = own.format.remark() if own else ""
    known = "own" if own else ",".join(mini_domains())
    given = ",".join(domain) if domain else _ask("Domains, separated by commas", known, asks)
    text = _text(path.stem, model, [name.strip() for name in given.split(",")], own, remark)
    _write(path, text)
    following = (command_line(name, path) for name in ("validate", "plan", "run"))
    lines = [*filter(None, [remark]), f"Wrote {path}. Review and edit it, then:"]
    return Answer(path, lines, tuple(following))


def _ask(question: str, default: str, asks: bool) -> str:
    answer: str = typer.prompt(question, default=default) if asks else default
    return answer


def _own_data(
    train: str | None,
    data_format: str | None,
    columns: dict[str, str],
    benchmark: str | None,
    validation: str | None,
    test: str | None,
) -> OwnData | None:
    if train is None:
        if validation is not None or test is not None or benchmark is not None:
            refuse("--benchmark, --validation and --test require --train, the training rows")
        if data_format or columns:
            refuse("--format and --column require --train, the training rows")
        return None
    benchmark = "exact_match" if benchmark is None else benchmark
    items = _both(validation, test)
    if data_format or columns:
        return OwnData(train, RowFormat(data_format or DEFAULT, columns), benchmark, *items)
    try:
        return OwnData(train, guess_format(train, benchmark), benchmark, *items)
    except ValueError as error:
        refuse(str(error))


def _both(validation: str | None, test: str | None) -> tuple[str, str]:
    if validation is None or test is None:
        refuse(
            "--train requires --validation and --test: trials must not be selected on their "
            "training rows, and the report must not use the items that selected them"
        )
    return validation, test


def _text(stem: str, model: str, names: list[str], own: OwnData | None, remark: str) -> str:
    """The configuration, checked as `validate` checks it."""
    if own is not None and len(names) != 1:
        refuse(f"--train describes one domain, but --domain names {len(names)}")
    try:
        facts = model_facts(model)
        length = default_length(facts)
        trees = {
            name: own.tree(facts.is_small, length) if own else mini_domain(name) for name in names
        }
        text = configuration(stem, facts, trees, remark)
        _check(text)
    except ValueError as error:
        refuse(str(error))
    return text


def _check(text: str) -> None:
    import yaml

    check_inputs(resolve_paths(parse_config(yaml.safe_load(text), "the new configuration")))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        files = [f"{parent} is a file" for parent in path.parents if parent.is_file()]
        refuse(f"{path}: cannot be written ({files[0] if files else error.strerror})")
