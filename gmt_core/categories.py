"""Reads a transformer's parameter names: which block, and attention, FFN or norm.

Knows Llama, Mistral, Qwen, Gemma, Phi-3, GPT-2 and GPT-NeoX as transformers spells them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, final

from gmt_core.naming import plain_name

Category = Literal["attention", "ffn", "norm"]

_BLOCK: Final = re.compile(r"^(?P<block>(?:.*\.)?(?:layers|h)\.\d+)\.(?P<rest>.+)$")
# The end of a module's path inside its block.
_MODULES: Final[dict[Category, re.Pattern[str]]] = {
    "attention": re.compile(
        r"(^|\.)((q|k|v|o|qkv)_proj|c_attn|attn\.c_proj|query_key_value|attention\.dense)$"
    ),
    "ffn": re.compile(
        r"(^|\.)(gate_proj|up_proj|down_proj|gate_up_proj|c_fc|mlp\.c_proj"
        r"|dense_h_to_4h|dense_4h_to_h)$"
    ),
    "norm": re.compile(r"(^|\.)(\w*norm|ln_\d)$"),
}
_LAST_NORM: Final = re.compile(r"(^|\.)(\w*norm|ln_f)$")
_UNREADABLE: Final = re.compile(r"(^|\.)(experts|lora_\w+)(\.|$)")


@final
@dataclass(frozen=True)
class BlockModule:
    """One module of a block: ("model.layers.3", "attention", "self_attn.q_proj")."""

    block: str
    category: Category
    module: str


def read_categories(names: Sequence[str]) -> dict[str, BlockModule]:
    """The module of each parameter in a block; the others (embeddings, head) are left out.

    Weight and bias belong to one module. Raises ValueError for a parameter in a block whose name
    says nothing known, and for a model without blocks.
    """
    found = {}
    for name in names:
        inside = _BLOCK.match(plain_name(name))
        if inside is None:
            continue
        module = inside["rest"].rpartition(".")[0]
        category = _category_of(module)
        if category is None:
            raise ValueError(
                f"{name}: cannot tell whether this is attention, FFN or norm; readable are "
                f"parameters named as in Llama, Mistral, Qwen, Gemma, Phi-3, GPT-2 and GPT-NeoX"
            )
        found[name] = BlockModule(inside["block"], category, module)
    if not found:
        shown = ", ".join(names[:3]) or "none"
        raise ValueError(
            f"parameters: expected some in transformer blocks, named as in Llama, Mistral, Qwen, "
            f"Gemma, Phi-3, GPT-2 or GPT-NeoX (model.layers.0.self_attn.q_proj.weight), "
            f"found {shown}{', ...' if len(names) > 3 else ''}"
        )
    return found


def read_embeddings(names: Sequence[str]) -> dict[str, str]:
    """The module of each parameter of the embeddings and the head: outside the blocks, no norm."""
    modules = {name: plain_name(name).rpartition(".")[0] for name in names}
    return {
        name: module
        for name, module in modules.items()
        if not _BLOCK.match(plain_name(name)) and not _LAST_NORM.search(module)
    }


def _category_of(module: str) -> Category | None:
    if _UNREADABLE.search(module):
        return None
    return next((c for c, pattern in _MODULES.items() if pattern.search(module)), None)
