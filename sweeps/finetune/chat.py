"""A conversation in the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sweeps.finetune.example import Example, Turn
from sweeps.finetune.rows import RowError

Messages = list[dict[str, Any]]
REASONING = ("reasoning_content", "reasoning", "thinking")
"""What messages and chat templates call a text that precedes the answer."""


def check_template(tokenizer: Any) -> None:
    """Raise RowError where the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise RowError(
            "data.template: 'chat' needs a tokenizer with a chat template, and this one has "
            "none; expected 'own', the format's own prompt"
        )


def in_chat_template(tokenizer: Any, example: Example) -> tuple[str, str]:
    """The prompt and the response as text with their special tokens, the turn's end included.

    Raises RowError where the template refuses the conversation or leaves a part of it out.
    """
    turns = [turn.message() for turn in example.conversation()]
    answer = (example.answer or Turn("assistant", example.response)).message()
    tools = [dict(tool) for tool in example.tools] or None
    write = partial(tokenizer.apply_chat_template, tokenize=False)
    try:
        prompt = write(turns, tools=tools, add_generation_prompt=True)
        whole = write([*turns, answer], tools=tools)
        left_out = _left_out(write, [*turns, answer], tools, whole)
    except Exception as error:  # jinja's own errors, and what a template raises itself
        raise RowError(
            f"data.template: the chat template refuses a conversation: {error}"
        ) from error
    if left_out:
        raise RowError(
            f"data.template: expected a chat template that writes {left_out}, found one that "
            "does not"
        )
    if not whole.startswith(prompt):
        raise RowError(
            "data.template: the tokenizer's chat template writes an answer otherwise than it "
            "asks for one, so the response's tokens cannot be told apart; expected 'own'"
        )
    return prompt, whole[len(prompt) :]


def _left_out(write: Callable[..., str], messages: Messages, tools: Any, whole: str) -> str:
    """What the template reads nothing of: with another value, it writes the same text."""
    if tools and write(messages, tools=None) == whole:
        return "the tools"
    renamed = [_renamed(message) for message in messages]
    if renamed != messages and write(renamed, tools=tools) == whole:
        return "the tool calls"
    *before, answer = messages
    for name in REASONING:  # of earlier turns, templates leave it out on purpose
        if name in answer and write([*before, {**answer, name: "..."}], tools=tools) == whole:
            return f"'{name}'"
    return ""


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "name": f"_{call['function']['name']}"}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message
