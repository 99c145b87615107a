"""Text to token ids and back, the same way in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@final
class TokenCodec:
    """How prompts and responses become ids, and generated ids become text.

    SentencePiece-like tokenizers put a space before every text. Inside a sequence that space is
    wrong (it shifts the indentation of code), so with them a response is encoded and decoded
    after a newline. With all others a response is simply its own tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        newline = self._plain("\n")
        adds_prefix = self._plain("\nx")[len(newline) :] != self._plain("x")
        self._anchor = newline if adds_prefix else []

    def prompt(self, text: str) -> list[int]:
        """The prompt's ids, after the beginning-of-sequence token where there is one."""
        bos = self._tokenizer.bos_token_id
        return ([] if bos is None else [bos]) + self._plain(text)

    def response(self, text: str) -> list[int]:
        """The ids of a text that follows a prompt; no special token is added."""
        if not self._anchor:
            return self._plain(text)
        ids = self._plain("\n" + text)
        size = len(self._anchor)
        return ids[size:] if ids[:size] == self._anchor else self._plain(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated `ids` without special tokens: the inverse of `response`."""
        whole = self._decode([*self._anchor, *ids])
        return whole[len(self._decode(self._anchor)) :] if self._anchor else whole

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: object) -> frozenset[int]:
    """The ids that end a response, by the tokenizer or by the model's generation settings."""
    declared = getattr(generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list | tuple) else [declared]
    return frozenset(end for end in (tokenizer.eos_token_id, *several) if end is not None)
