"""A row of training data, and the example made from it.

`Row` reads fields and reports errors with file and line. `Example` is a prompt and its response,
or a conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeVar

from evaluators.split import is_validation


class RowError(ValueError):
    """Unusable training data: names file, line, what was expected and what was found."""


class Row:
    """One JSON object and its place ("train.jsonl, line 3"); getters report bad fields."""

    def __init__(self, place: str, fields: Mapping[str, Any]) -> None:
        """`place` is where `fields` were read."""
        self.place = place
        self.fields = fields

    def text(self, name: str, *, default: str | None = None) -> str:
        """The non-empty string field `name`; `default` if it is missing or empty."""
        value = self.fields.get(name, default)
        if value in ("", None) and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            found = f"{value!r:.60}" if name in self.fields else self._names()
            self.fail(f"a non-empty string '{name}'", found)
        return value

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        """The non-empty list of objects in field `name`."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
            found = f"{value!r:.60}" if name in self.fields else self._names()
            self.fail(f"a list of objects '{name}'", found)
        if not value:
            self.fail(f"a list of objects '{name}'", "an empty list")
        return value

    def fail(self, expected: str, found: str) -> NoReturn:
        """Raise a RowError for this row."""
        raise RowError(f"{self.place}: expected {expected}, found {found}")

    def _names(self) -> str:
        names = ", ".join(sorted(self.fields)) or "(none)"
        return f"the fields {names}: see data.format and data.columns"


class Turn(NamedTuple):
    """One message: its role (system, user, assistant or tool) and its text.

    `chat`: the message for a chat template if it has more than role and text, such as tool calls.
    `only_chat`: the part that the format's own prompt cannot express. `is_learned`: the loss
    counts it; other turns are context.
    """

    role: str
    text: str
    chat: Mapping[str, Any] | None = None
    only_chat: str = ""
    is_learned: bool = False

    def message(self) -> dict[str, Any]:
        """The message as a chat template expects it."""
        return dict(self.chat or {"role": self.role, "content": self.text})


class Part(NamedTuple):
    """A piece of a text: context, or what `is_learned`. `ends`: with the EOS token after it."""

    text: str
    is_learned: bool = False
    ends: bool = False


Text = tuple[Part, ...]
"""What becomes the tokens of one example: context first, a learned part last."""


@dataclass(frozen=True)
class Example:
    """A prompt and its response, or a conversation; both end with what is learned.

    `own`: the text in the format's own template. `split_text`: the text that the benchmark on the
    same file hashes, so both agree on a row's split. `official_part`: the official split, if the
    set has one. `turns`: the messages, for a chat template. `tools`: the functions that the
    conversation may call. `only_chat`: what `own` leaves out. `texts`: the texts to train on, of
    the configured template; several if each assistant turn has its own.
    """

    own: Text
    split_text: str
    official_part: str | None = None
    turns: tuple[Turn, ...] = field(default=(), hash=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    only_chat: str = ""
    texts: tuple[Text, ...] = ()

    @property
    def is_held_out(self) -> bool:
        """Whether a benchmark on the same set evaluates on it, so it must not be trained on."""
        if self.official_part is not None:
            return self.official_part != "train"
        return is_validation(self.split_text)


def pair(
    prompt: str, response: str, split_text: str, part: str | None = None, *, asked: str = ""
) -> Example:
    """A prompt and its response; `asked` is the user's turn in a chat template, if another."""
    own = (Part(prompt), Part(response, is_learned=True, ends=True))
    turns = (Turn("user", asked or prompt), Turn("assistant", response, is_learned=True))
    return Example(own, split_text, part, turns)


_Each = TypeVar("_Each", Part, Turn)


def one_by_one(whole: Sequence[_Each]) -> Iterator[tuple[_Each, ...]]:
    """For each learned part or turn, a sequence that ends with it, after all before as context."""
    context: list[Any] = []
    for each in whole:
        if each.is_learned:
            yield (*context, each)
        context.append(each._replace(is_learned=False))
