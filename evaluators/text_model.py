"""What a benchmark asks of a model, and what it is told. Without torch, which takes seconds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators.sampling import Sampling


@dataclass(frozen=True)
class Completion:
    """A generated text, cut before its stop string, and the number of tokens it took.

    `truncated` where neither an end token nor a stop string came within the token limit. `ids`
    are all that were generated, where the engine tells them.
    """

    text: str
    tokens: int
    truncated: bool
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class LogLikelihood:
    """log p(continuation | context) <= 0 in nats, over `tokens` tokens of the continuation.

    `is_greedy` where every token of the continuation is the most likely one.
    """

    nats: float
    tokens: int
    is_greedy: bool


class TextModel(ABC):
    """What a benchmark needs of a model; implement it to score another engine."""

    @property
    def add_bos(self) -> bool | None:
        """Whether prompts begin with BOS, if that differs from the tokenizer's rule; else None.

        Part of the fingerprint of a score.
        """
        return None

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
    ) -> list[Completion]:
        """A completion for each prompt, in order.

        Args:
            prompts: texts.
            max_new_tokens: the most tokens of a completion.
            stops: a completion ends before the first of these.
            sampling: temperature and top_p; None: greedy.
            seeds: with `sampling`, one number per prompt, which alone decides what is drawn.
        """

    @abstractmethod
    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """log p(continuation | context) in nats for each (context, continuation), in order."""

    def together(self) -> AbstractContextManager[None]:
        """What ranks enter together before calls whose number differs between them."""
        return nullcontext()
