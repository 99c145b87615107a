"""The ShareGPT format: {conversations: [{from, value}]}, in the Tulu template."""

from __future__ import annotations

from collections.abc import Iterator

from sweeps.finetune.example import Example, Turn
from sweeps.finetune.rows import Row
from sweeps.finetune.training_sets.messages import assistant_turns
from sweeps.finetune.training_sets.training_set import TrainingSet

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def read(row: Row) -> Iterator[Example]:
    """The examples of one conversation; `system` may stand beside it."""
    system = row.text("system", default="")
    turns: list[Turn] = [("system", system)] if system else []
    for number, message in enumerate(row.objects("conversations"), start=1):
        inner = Row(f"{row.place}, message {number}", message)
        speaker = inner.text("from")
        if speaker not in ROLES:
            inner.fail(f"'from' one of {', '.join(ROLES)}", repr(speaker))
        turns.append((ROLES[speaker], inner.text("value")))
    yield from assistant_turns(row, turns)


TRAINING_SET = TrainingSet(read)
