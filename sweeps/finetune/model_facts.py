"""Facts about a model before it is loaded, without torch: its config.json and its dtype."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeps.finetune import hub
from sweeps.finetune.finetune_config import ModelConfig

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes per weight, by the name of the dtype."""


class ModelError(ValueError):
    """A model cannot be loaded or used; one sentence says which and why."""


def weights_dtype(name: str, device: str) -> str:
    """The weights' dtype by its torch name, for a model's ``dtype`` on "cpu" or "cuda".

    `auto` is bfloat16 if the accelerator supports it, else float32.
    """
    if name == "auto" and device == "cuda":
        import torch

        name = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return name if name in BYTES else "float32"


def read_model_config(model: ModelConfig) -> dict[str, Any]:
    """The model's config.json, from its folder, the hub's cache, or the hub.

    Raises ModelError if there is none or the hub cannot be reached; otherwise every trial would
    fail later.
    """
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model.path: expected a Hugging Face model folder, but {model.path} has no "
                f"config.json"
            )
        if model.revision is not None:
            raise ModelError(
                f"model.revision: a local folder has no revision; remove it, or give a hub model "
                f"instead of {model.path}"
            )
        return _parsed(folder / "config.json")
    if folder.exists() or not hub.may_be_name(model.path):
        found = "a file" if folder.exists() else "nothing there"
        raise ModelError(
            f"model.path: expected a Hugging Face model folder or a hub name such as "
            f"'mistralai/Mistral-7B-v0.1', got {model.path} ({found})"
        )
    try:
        file = hub.fetch(model.path, "config.json", revision=model.revision, kind="model")
    except hub.HubError as error:
        raise ModelError(f"model.path {model.path}: {error}") from None
    return _parsed(file)


def context_length(facts: Mapping[str, Any]) -> int | None:
    """The most tokens of a text, from a model's config.json; None if it does not say."""
    text = facts.get("text_config") or facts  # multi-modal models nest it
    length = text.get("max_position_embeddings") or text.get("n_positions")
    return length if isinstance(length, int) else None


def check_context(model: ModelConfig, max_length: int) -> None:
    """Raise ModelError if examples may exceed the context length in config.json."""
    context = context_length(read_model_config(model))
    if context is not None and max_length > context:
        raise ModelError(
            f"data.max_length: expected at most the model's context of {context} tokens, "
            f"got {max_length}"
        )


def _parsed(file: Path) -> dict[str, Any]:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file}: expected JSON, found {error}") from None
    if not isinstance(facts, dict):
        raise ModelError(f"{file}: expected a JSON object, found {type(facts).__name__}")
    return facts


def check_attention(config: ModelConfig) -> None:
    """Raise ModelError if the requested attention is not installed."""
    if config.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        raise ModelError(
            "model.attention: 'flash_attention_2' requires flash-attn, which is not installed; "
            "install it (pip install flash-attn), or choose 'sdpa', or 'auto', which uses it "
            "where it is installed"
        )
