"""The messages format: {messages: [{role, content}]}, in the Tulu template.

As OpenAI and chat templates have it: `tools` beside the messages, `tool_calls`, content parts of
text, and `weight: 0` on what is not to be learned.
"""

from __future__ import annotations

from functools import partial

from sweeps.finetune.training_sets.conversation import Keys, read_conversation
from sweeps.finetune.training_sets.training_set import TrainingSet

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
KEYS = Keys("messages", "role", "content", ROLES)

TRAINING_SET = TrainingSet(partial(read_conversation, keys=KEYS))
