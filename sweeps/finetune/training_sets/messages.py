"""The messages format: {messages: [{role, content}]}, in the Tulu template.

An example for each assistant turn, given all before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.finetune.example import Example, Turn
from sweeps.finetune.rows import Row
from sweeps.finetune.training_sets.training_set import TrainingSet

ROLES = ("system", "user", "assistant", "tool")


def read(row: Row) -> Iterator[Example]:
    """The examples of one conversation."""
    turns: list[Turn] = []
    for number, message in enumerate(row.objects("messages"), start=1):
        inner = Row(f"{row.place}, message {number}", message)
        role, content = inner.text("role"), inner.text("content")
        if role not in ROLES:
            inner.fail(f"role one of {', '.join(ROLES)}", repr(role))
        turns.append((role, content))
    yield from assistant_turns(row, turns)


def assistant_turns(row: Row, turns: Sequence[Turn]) -> Iterator[Example]:
    """An example for each turn of the assistant; RowError where there is none."""
    before, found = "", 0
    for number, (role, content) in enumerate(turns):
        before += f"<|{role}|>\n"
        if role == "assistant":
            found += 1
            yield Example(before, content, before, turns=tuple(turns[:number]))
        before += f"{content}\n"
    if not found:
        row.fail("a message with role 'assistant'", "none")


TRAINING_SET = TrainingSet(read)
