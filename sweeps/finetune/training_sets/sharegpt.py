"""The ShareGPT format: {conversations: [{from, value}]}, in the Tulu template.

A `function_call` is the JSON of {name, arguments}; `tools` may stand beside the conversation.
"""

from __future__ import annotations

from functools import partial

from sweeps.finetune.training_sets.conversation import Keys, read_conversation
from sweeps.finetune.training_sets.training_set import TrainingSet

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
KEYS = Keys("conversations", "from", "value", ROLES)

TRAINING_SET = TrainingSet(partial(read_conversation, keys=KEYS))
