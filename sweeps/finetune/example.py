"""One training example: what the model is given, and the response whose tokens it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from evaluators.split import is_validation


class Turn(NamedTuple):
    """One message: its role (system, user, assistant or tool) and what it says.

    `chat` is the message for a chat template where that takes more than role and text, such as
    tool calls. `only_chat` names what of it the format's own prompt cannot write. An assistant's
    turn that is not `trained` is part of the conversation, and no response to learn.
    """

    role: str
    text: str
    chat: Mapping[str, Any] | None = None
    only_chat: str = ""
    trained: bool = True

    def message(self) -> dict[str, Any]:
        """The message as a chat template reads it."""
        return dict(self.chat or {"role": self.role, "content": self.text})


@dataclass(frozen=True)
class Example:
    """A prompt, the response whose tokens are learned, and the text that decides its split.

    `split_text` is what the benchmark on the same file hashes, so both agree on a row's part;
    where a set has an official split, `official_part` says it instead. `turns` is the
    conversation before the response, for a chat template; () means one turn of the user.
    `answer` is the response as a turn, `tools` the functions that the conversation may call.
    `only_chat` names what the prompt and the response leave out, `in_chat` is both as the
    tokenizer's chat template writes them.
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
        """Whether a benchmark of the same set evaluates on it, so that training must not."""
        if self.official_part is not None:
            return self.official_part != "train"
        return is_validation(self.split_text)

    def conversation(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.turns or (Turn("user", self.prompt),)
