"""Names of torch and transformers that they do not promise to keep, each with what the public API
lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

from typing import Any


def block_classes(model: Any) -> frozenset[str]:
    """The names of the classes of a transformer's repeated layers; empty where it does not say.

    transformers uses them to place and shard models, and shows them nowhere else.
    """
    return frozenset(getattr(model, "_no_split_modules", None) or ())


def attention_of(model: Any) -> str:
    """The attention that a model uses, such as sdpa: transformers has a setter only."""
    return str(model.config._attn_implementation)


def takes_attention(model: Any) -> bool:
    """Whether a model calls any attention function that is registered, and tells it of windows.

    A model whose windows or biases are in its masks alone has no flash attention.
    """
    return bool(model._supports_flash_attn and model._can_set_attn_implementation())
