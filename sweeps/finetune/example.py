"""One training example: what the model is given, and the response whose tokens it learns."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.split import is_validation

Turn = tuple[str, str]
"""A role (system, user, assistant or tool) and what it says."""


@dataclass(frozen=True)
class Example:
    """A prompt, the response whose tokens are learned, and the text that decides its split.

    `split_text` is what the benchmark on the same file hashes, so both agree on a row's part;
    where a set has an official split, `official_part` says it instead. `turns` is the
    conversation before the response, for a chat template; () means one turn of the user.
    """

    prompt: str
    response: str
    split_text: str
    official_part: str | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def is_held_out(self) -> bool:
        """Whether a benchmark of the same set evaluates on it, so that training must not."""
        if self.official_part is not None:
            return self.official_part != "train"
        return is_validation(self.split_text)

    def conversation(self) -> tuple[Turn, ...]:
        """The turns before the response."""
        return self.turns or (("user", self.prompt),)
