"""Text to token ids and back, the same way in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, final

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AddBos = Literal["auto", True, False]
"""Whether prompts begin with BOS, the beginning-of-sequence token; auto: as the tokenizer does."""

ENCODING = 2
"""Part of every fingerprint; raise it when the same text becomes other ids."""


@final
class TokenCodec:
    """How prompts and responses become ids, and generated ids become text.

    SentencePiece-like tokenizers put a space before every text. Inside a sequence that space is
    wrong (it shifts the indentation of code), so with them a response is encoded and decoded
    after a newline. With all others a response is simply its own tokens.

    `head` holds the ids before every prompt: what `tokenizer(text)` puts there, with or without
    BOS where `add_bos` is not "auto". What it puts after a text (EOS) does not belong there.
    `add_bos` is True or False where it overrides what the tokenizer does, else None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, add_bos: AddBos = "auto") -> None:
        """ValueError where BOS is asked of a tokenizer that has none."""
        if add_bos not in ("auto", True, False):
            raise ValueError(f"add_bos: expected 'auto', True or False, got {add_bos!r}")
        self._tokenizer = tokenizer
        own = self._own_head()
        self.head = own if add_bos == "auto" else _head(own, tokenizer.bos_token_id, add_bos)
        self.add_bos = None if add_bos == "auto" or self.head == own else add_bos
        newline = self._plain("\n")
        adds_prefix = self._plain("\nx")[len(newline) :] != self._plain("x")
        self._anchor = newline if adds_prefix else []

    def prompt(self, text: str) -> list[int]:
        """The ids of `head` and `text`; a text that begins with `head` itself gets no second one.

        An empty text is BOS, else EOS, whatever `add_bos` is: a model cannot start from nothing.
        """
        ids = self._plain(text)
        if not ids and not self.head:
            return [] if self.first_token is None else [self.first_token]
        # A rendered chat template may hold BOS as text.
        return ids if tuple(ids[: len(self.head)]) == self.head else [*self.head, *ids]

    @property
    def first_token(self) -> int | None:
        """The id that stands before a text without context: BOS, else EOS, if either exists."""
        bos: int | None = self._tokenizer.bos_token_id
        end: int | None = self._tokenizer.eos_token_id
        return end if bos is None else bos

    def response(self, text: str) -> list[int]:
        """The ids of a text that follows a prompt; no special token is added."""
        if not self._anchor:
            return self._plain(text)
        ids = self._plain("\n" + text)
        size = len(self._anchor)
        return ids[size:] if ids[:size] == self._anchor else self._plain(text)

    def end_token(self, stop: str) -> int | None:
        """The id of a stop that is one special token, which `text` leaves out."""
        ids = self._plain(stop)
        return ids[0] if len(ids) == 1 and not self._decode(ids) else None

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated `ids` without special tokens: the inverse of `response`."""
        whole = self._decode([*self._anchor, *ids])
        return whole[len(self._decode(self._anchor)) :] if self._anchor else whole

    def _own_head(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text."""
        whole: list[int] = self._tokenizer.encode("x", verbose=False)
        plain = self._plain("x")
        starts = range(len(whole) - len(plain) + 1)
        found = [start for start in starts if whole[start : start + len(plain)] == plain]
        return tuple(whole[: max(found, default=0)])

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def _head(own: tuple[int, ...], bos: int | None, add_bos: bool) -> tuple[int, ...]:
    """`own` with BOS or without it."""
    if not add_bos:
        return tuple(token for token in own if token != bos)
    if bos is None:
        raise ValueError(
            "add_bos: true needs a tokenizer with a beginning-of-sequence token, and this one "
            "has none; expected 'auto' or false"
        )
    return own if bos in own else (bos, *own)


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: object) -> frozenset[int]:
    """The ids that end a response, by the tokenizer or by the model's generation settings."""
    declared = getattr(generation_config, "eos_token_id", None)
    several = declared if isinstance(declared, list | tuple) else [declared]
    return frozenset(end for end in (tokenizer.eos_token_id, *several) if end is not None)
