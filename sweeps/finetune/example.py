"""A row of training data, the example made from it, and its chat template form.

`Row` reads fields and reports errors with file and line. `Example` is a prompt with the response
whose tokens are learned. `in_chat_template` writes both with the tokenizer's own template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn

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
        return "the fields " + (", ".join(sorted(self.fields)) or "(none)")


class Turn(NamedTuple):
    """One message: its role (system, user, assistant or tool) and its text.

    `chat`: the message for a chat template if it has more than role and text, such as tool calls.
    `only_chat`: the part that the format's own prompt cannot express. An assistant's turn that is
    not `trained` is context, and not a response to learn.
    """

    role: str
    text: str
    chat: Mapping[str, Any] | None = None
    only_chat: str = ""
    trained: bool = True

    def message(self) -> dict[str, Any]:
        """The message as a chat template expects it."""
        return dict(self.chat or {"role": self.role, "content": self.text})


@dataclass(frozen=True)
class Example:
    """A prompt, the response whose tokens are learned, and the text that decides its split.

    `split_text`: the text that the benchmark on the same file hashes, so both agree on a row's
    split. `official_part`: the official split, if the set has one. `turns`: the conversation
    before the response, for a chat template; () means one user turn. `answer`: the response as a
    turn. `tools`: the functions that the conversation may call. `only_chat`: what prompt and
    response leave out. `in_chat`: both as the tokenizer's chat template writes them.
    """

    prompt: str
    response: str
    split_text: str
    official_part: str | None = None
    turns: tuple[Turn, ...] = field(default=(), hash=False)
    answer: Turn | None = field(default=None, hash=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    only_chat: str = ""
    in_chat: tuple[str, str] | None = None

    @property
    def is_held_out(self) -> bool:
        """Whether a benchmark on the same set evaluates on it, so it must not be trained on."""
        if self.official_part is not None:
            return self.official_part != "train"
        return is_validation(self.split_text)

    def conversation(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.turns or (Turn("user", self.prompt),)


Messages = list[dict[str, Any]]
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names of the text before an answer, in messages and chat templates."""


def check_template(tokenizer: Any) -> None:
    """Raise RowError if the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise RowError(
            "data.template: 'chat' requires a tokenizer with a chat template, but this one has "
            "none; expected 'own', the format's own prompt"
        )


def in_chat_template(tokenizer: Any, example: Example) -> tuple[str, str]:
    """The prompt and the response as text with special tokens, including the end of the turn.

    Raises RowError if the template rejects the conversation or leaves out a part of it.
    """
    turns = [turn.message() for turn in example.conversation()]
    answer = (example.answer or Turn("assistant", example.response)).message()
    tools = [dict(tool) for tool in example.tools] or None
    write = partial(tokenizer.apply_chat_template, tokenize=False)
    try:
        prompt = write(turns, tools=tools, add_generation_prompt=True)
        whole = write([*turns, answer], tools=tools)
        left_out = _left_out(write, [*turns, answer], tools, whole)
    except Exception as error:  # jinja's errors, and any that a template raises
        raise RowError(
            f"data.template: the chat template rejects a conversation: {error}"
        ) from error
    if left_out:
        raise RowError(
            f"data.template: expected a chat template that writes {left_out}, found one that "
            "does not"
        )
    if not whole.startswith(prompt):
        raise RowError(
            "data.template: the tokenizer's chat template writes a conversation differently with "
            "its answer, so the response's tokens cannot be identified; expected 'own'"
        )
    return prompt, whole[len(prompt) :]


def _left_out(write: Callable[..., str], messages: Messages, tools: Any, whole: str) -> str:
    """The part that the template ignores: with another value, it writes the same text."""
    if tools and write(messages, tools=None) == whole:
        return "the tools"
    renamed = [_renamed(message) for message in messages]
    if renamed != messages and write(renamed, tools=tools) == whole:
        return "the tool calls"
    *before, answer = messages
    for name in REASONING:  # templates omit it from earlier turns on purpose
        if name in answer and write([*before, {**answer, name: "..."}], tools=tools) == whole:
            return f"'{name}'"
    return ""


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "name": f"_{call['function']['name']}"}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message
