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
