"""How a command answers: text for a person or, with `--json`, one JSON document for a program.

A command is a function that returns an `Answer`, or yields one per refresh. `as_command` adds the
option, the output and the exit code. A mistake ends a command as a `UserError` or by `refuse`.
"""

from __future__ import annotations

import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NoReturn, TextIO, TypeVar, final, get_args

import typer
from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from sweeps.storage.errors import UserError
from sweeps.storage.terminal_output import fitted, is_heard

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Show = Callable[["Answer[Any]"], None]
STOPPED = 130
"""The exit code after Ctrl-C or SIGTERM."""

_PLACES = (
    r"unknown key '([^']+)'",
    r"'([^']+)' is missing",
    r"^(?:\S+: )*((?:domain |override |--\S+ )?\S+): ",
)
_SUGGESTION = r"(?:did you mean|possible options:) '?([^',)]+)"


class Problem(BaseModel):
    """Why a command did not do all that was asked. `place`: the file, key or option, if one is
    named; `suggestion`: the nearest valid spelling."""

    model_config = ConfigDict(frozen=True)

    message: str
    place: str | None
    suggestion: str | None
    exit_code: int

    @classmethod
    def of(cls, message: str, exit_code: int) -> Problem:
        """Read place and suggestion from a message, which states them in a fixed form."""
        text = " ".join(message.split())
        places = [found for each in _PLACES if (found := re.search(each, text))]
        meant = re.search(_SUGGESTION, text, re.IGNORECASE)
        return cls(
            message=text,
            place=places[0][1] if places else None,
            suggestion=meant[1] if meant else None,
            exit_code=exit_code,
        )


class Document(BaseModel, Generic[T]):
    """What a command prints with `--json`, on one line. `result` is null if the command failed;
    `error` is null unless the exit code differs from 0. `next`: commands to run next. A number
    that is not finite is null."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    command: str
    result: T | None
    next: tuple[str, ...] = ()
    error: Problem | None = None


@final
@dataclass(frozen=True)
class Answer(Generic[T_co]):
    """What a command found: `result` for a program, `view` (lines and tables) for a person.

    `next`: commands to run next, printed after the view. `problem`: why a part of the requested
    result is missing.
    """

    result: T_co | None
    view: Iterable[Any] = ()
    next: tuple[str, ...] = ()
    problem: Problem | None = None


@final
class RefusedError(Exception):
    """Ends a command with a problem and the commands to run next."""

    def __init__(self, problem: Problem, *following: str) -> None:
        super().__init__(problem.message)
        self.answer = Answer[Any](None, next=following, problem=problem)


def refuse(message: str, code: int = 2) -> NoReturn:
    """End the command with a message of one paragraph and exit code ``code``."""
    raise RefusedError(Problem.of(message, code))


def stopped(message: str, *following: str) -> RefusedError:
    """The end of a command that was stopped, with the command that continues it."""
    return RefusedError(Problem.of(message, STOPPED), *following)


def as_command(name: str, function: Callable[..., Any]) -> Callable[..., int]:
    """The function as typer calls it: with the option `--json`, output and exit code."""

    def command(*, as_json: bool, **given: Any) -> int:
        return _run(name, function, given, as_json)

    given = inspect.signature(function, eval_str=True).parameters.values()
    option = inspect.Parameter(
        "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_AsJson
    )
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature([*given, option])  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in (*given, option)}
    return command


_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


def document_of(function: Callable[..., Any]) -> type[Document[Any]]:
    """The model of what a command prints with `--json`, from the type that it returns."""
    returned = inspect.signature(function, eval_str=True).return_annotation
    (inner,) = get_args(returned)  # of Answer[T], or of Iterator[Answer[T]]
    result = get_args(inner)[0] if inspect.isgeneratorfunction(function) else inner
    return Document[result]  # type: ignore[valid-type]


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of what a command prints with `--json`."""
    return document_of(function).model_json_schema(mode="serialization", schema_generator=_Schema)


@final
class _Schema(GenerateJsonSchema):
    def float_schema(self, schema: Any) -> JsonSchemaValue:
        """Numbers that are not finite are null."""
        return {"type": ["number", "null"]}


def _run(name: str, function: Callable[..., Any], given: Any, as_json: bool) -> int:
    """Call a command and print each of its answers; returns the exit code."""
    out, code = sys.stdout, 0
    is_redrawn = bool(given.get("watch")) and out.isatty()
    with (
        redirect_stdout(_Aside()) if as_json else nullcontext(),
        _documents(name, function, out) if as_json else _texts(out, is_redrawn) as show,
    ):
        for answer in _answers(function, given):
            show(answer)
            code = 0 if answer.problem is None else answer.problem.exit_code
            if not is_heard(out):
                break
    return code


def _answers(function: Callable[..., Any], given: dict[str, Any]) -> Iterator[Answer[Any]]:
    try:
        found = function(**given)
        yield from [found] if isinstance(found, Answer) else found
    except RefusedError as refused:
        yield refused.answer
    except UserError as error:
        yield Answer(None, problem=Problem.of(str(error), 2))


@final
class _Aside(io.TextIOBase):
    """Standard output while a command prints JSON: progress goes to standard error, as lines."""

    def write(self, text: str) -> int:
        """Write to standard error."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush standard error."""
        sys.stderr.flush()


@contextmanager
def _documents(name: str, function: Callable[..., Any], out: TextIO) -> Iterator[Show]:
    model = document_of(function)

    def show(answer: Answer[Any]) -> None:
        document = model(
            command=name, result=answer.result, next=answer.next, error=answer.problem
        )
        print(document.model_dump_json(), file=out, flush=True)

    yield show


@contextmanager
def _texts(out: TextIO, is_redrawn: bool) -> Iterator[Show]:
    """Text below text or, ``is_redrawn``, in place on the terminal."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    live = Live(console=console, auto_refresh=False, vertical_overflow="visible")
    with live if is_redrawn else nullcontext():

        def show(answer: Answer[Any]) -> None:
            if answer.problem is not None and answer.problem.exit_code == STOPPED:
                print(fitted(f"\n{answer.problem.message}", out))
            lines = [fitted(each, out) if isinstance(each, str) else each for each in answer.view]
            lines += [f"  {command}" for command in answer.next]  # whole, to be copied
            if is_redrawn:
                live.update(Group(*lines), refresh=True)
            elif lines:
                console.print(*lines, sep="\n")
            if answer.problem is not None and answer.problem.exit_code != STOPPED:
                print(fitted(f"error: {answer.problem.message}", sys.stderr), file=sys.stderr)

        yield show
