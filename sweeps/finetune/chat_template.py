"""Conversations as the tokenizer's chat template writes them, and what of them is learned."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn, final

from evaluators.prompt_formats import special_tokens, turn_end
from sweeps.finetune.example import Example, Part, RowError, Text, Turn, one_by_one

Messages = list[dict[str, Any]]
Write = Callable[..., str]
REASONING = ("reasoning_content", "reasoning", "thinking")
"""The names of the text before an answer, in messages and chat templates."""
_THINK = re.compile(r"</?think>")
_TAGS = re.compile(
    r"(?P<comment>\{#.*?#\})|\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}", re.DOTALL
)
_MARK = "\ue000"  # a private-use character


@final
class ChatTemplate:
    """Writes conversations with a tokenizer's chat template, and finds what is learned.

    If the template marks answers and their ends with `{% generation %}`, that is learned.
    Otherwise it is what an answer adds to the text before it with a generation prompt.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Raise RowError if the tokenizer has no chat template."""
        if not getattr(tokenizer, "chat_template", None):
            _fail(
                "'chat' requires a tokenizer with a chat template, but this one has none; "
                "expected 'own', the format's own prompt"
            )
        self._tokenizer = tokenizer
        self._special = special_tokens(tokenizer)

    def texts(self, example: Example, *, per_turn: bool) -> tuple[Text, ...]:
        """The conversation as one text, or with `per_turn` as one for each learned turn.

        It is one for each learned turn too if the template does not write an answer as before
        once other turns follow, for example without its reasoning.

        Raises:
            RowError: the template rejects the conversation or leaves out a part of it.
        """
        if not per_turn:
            try:
                return (self._text(example.turns, example.tools),)
            except RowError:
                pass  # it holds for each turn, or is raised below
        return tuple(self._text(turns, example.tools) for turns in one_by_one(example.turns))

    def _text(self, turns: Sequence[Turn], tools: Sequence[Any]) -> Text:
        try:
            text, left_out = self._read(turns, [dict(tool) for tool in tools] or None)
        except Exception as error:  # jinja's errors, and any that a template raises
            raise RowError(
                f"data.template: the chat template rejects a conversation: {error}"
            ) from error
        if left_out:
            _fail(f"expected a chat template that writes {left_out}, found one that does not")
        if not text:
            _fail(
                "the tokenizer's chat template writes a conversation differently with its answer, "
                "so the response's tokens cannot be identified; expected 'own'"
            )
        if not self._ends_answers(text):
            _fail(
                "expected a chat template that ends an answer with a special token of this "
                f"tokenizer, found {text[-1].text[-20:]!r}, so an answer could never end"
            )
        return text

    def _read(self, turns: Sequence[Turn], tools: list[Any] | None) -> tuple[Text, str]:
        """The text, () if its answers cannot be told, and what the template leaves out."""
        write: Write = partial(self._tokenizer.apply_chat_template, tokenize=False)
        messages = [turn.message() for turn in turns]
        whole = write(messages, tools=tools)
        if tools and write(messages) == whole:
            return (), "the tools"
        write = partial(write, tools=tools)
        template = self._tokenizer.get_chat_template(tools=tools)
        marked = _TAGS.sub(_mark, template)
        text = (
            () if marked == template else _by_marks(write(messages, chat_template=marked), turns)
        )
        if not text or not self._ends_answers(text):
            text = _by_prefixes(write, turns, whole, self._tokenizer.eos_token)
        return text, _left_out(write, messages, whole) or _left_out_of_answers(text, turns)

    def _ends_answers(self, text: Text) -> bool:
        """Whether each learned part ends with a special token, but for white space."""
        return all(turn_end(part.text, self._special) for part in text if part.is_learned)


def _fail(sentence: str) -> NoReturn:
    raise RowError(f"data.template: {sentence}")


def _mark(tag: re.Match[str]) -> str:
    """A mark in place of `{% generation %}` or its end, with the same control of white space."""
    return tag["comment"] or f"{{#{tag[2]} #}}{_MARK}{{# {tag[3]}#}}"


def _by_marks(marked: str, turns: Sequence[Turn]) -> Text:
    """The text between and inside the marks; () if there is not one pair for each answer."""
    pieces = marked.split(_MARK)
    learned = [turn.is_learned for turn in turns if turn.role == "assistant"]
    if len(pieces) != 2 * len(learned) + 1:
        return ()
    parts = [Part(piece) for piece in pieces[:-1]]
    parts[1::2] = [Part(*answer) for answer in zip(pieces[1::2], learned, strict=True)]
    return tuple(parts)


def _by_prefixes(write: Write, turns: Sequence[Turn], whole: str, eos: str) -> Text:
    """An answer is what its message adds; () if `whole` is not written message by message."""
    messages, done = [turn.message() for turn in turns], 0
    parts: list[Part] = []
    for number, turn in enumerate(turns):
        if not turn.is_learned:
            continue
        before = write(messages[:number], add_generation_prompt=True)
        through = write(messages[: number + 1])
        if not whole.startswith(through):
            through = through.removesuffix(eos)  # some templates write it after the last message
        if not (whole.startswith(through) and through.startswith(before)):
            return ()
        parts += [Part(whole[done : len(before)]), Part(through[len(before) :], is_learned=True)]
        done = len(through)
    return tuple(parts)


def _left_out(write: Write, messages: Messages, whole: str) -> str:
    """What the template ignores: with another value, it writes the same text."""
    for what, changed in _changed(messages):
        if changed != messages and write(changed) == whole:
            return what
    return ""


def _changed(messages: Messages) -> Iterator[tuple[str, Messages]]:
    yield "the tool calls", [_renamed(message) for message in messages]
    for role in ("system", "tool"):
        yield (
            f"the messages of role '{role}'",
            [{**m, "content": f"{m['content']}."} if m["role"] == role else m for m in messages],
        )


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "name": f"_{call['function']['name']}"}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def _left_out_of_answers(text: Text, turns: Sequence[Turn]) -> str:
    """The field of a learned message that is not in the text that is learned."""
    answers = [turn.message() for turn in turns if turn.is_learned]
    for part, message in zip((part for part in text if part.is_learned), answers, strict=False):
        for name in ("content", *REASONING):
            pieces = _THINK.split(message.get(name) or "")
            if not all(piece.strip() in part.text for piece in pieces):
                return f"'{name}'"
    return ""
