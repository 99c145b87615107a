"""A conversation in the tokenizer's own chat template."""

from __future__ import annotations

from typing import Any

from sweeps.finetune.example import Example
from sweeps.finetune.rows import RowError


def check_template(tokenizer: Any) -> None:
    """Raise RowError where the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise RowError(
            "data.template: 'chat' needs a tokenizer with a chat template, and this one has "
            "none; expected 'own', the format's own prompt"
        )


def in_chat_template(tokenizer: Any, example: Example) -> tuple[str, str]:
    """The prompt and the response as text with their special tokens, the turn's end included."""
    turns = [{"role": role, "content": text} for role, text in example.conversation()]
    answer = {"role": "assistant", "content": example.response}
    try:
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([*turns, answer], tokenize=False)
    except Exception as error:  # jinja's own errors, and what a template raises itself
        raise RowError(
            f"data.template: the chat template refuses a conversation: {error}"
        ) from error
    if not whole.startswith(prompt):
        raise RowError(
            "data.template: the tokenizer's chat template writes an answer otherwise than it "
            "asks for one, so the response's tokens cannot be told apart; expected 'own'"
        )
    return prompt, whole[len(prompt) :]
