"""Facts about a model before it is loaded, without torch: its config.json and its dtype."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeps.finetune import hub
from sweeps.finetune.finetune_config import ModelConfig

BYTES = {"bfloat16": 2, "float32": 4, "mixed_bfloat16": 4, "auto": 4, "float64": 8}
"""Bytes per weight, by a model's `dtype`: those without a torch name have float32 weights."""

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LOG = logging.getLogger(__name__)


class ModelError(ValueError):
    """A model cannot be loaded or used; one sentence says which and why."""


def is_mixed(name: str, device: str) -> bool:
    """Whether a model of ``dtype`` computes in bfloat16 with float32 weights on "cpu" or "cuda".

    `auto` does so on accelerators that have bfloat16; those of other nodes are assumed to.
    """
    if name != "auto" or device != "cuda":
        return name == "mixed_bfloat16"
    import torch

    here = torch.cuda.is_available()
    return not here or torch.cuda.is_bf16_supported(including_emulation=False)


def warn_of_rounding(model: ModelConfig) -> None:
    """Log a warning if the weights are trained in pure bfloat16."""
    if model.dtype == "bfloat16":
        _LOG.warning(
            "model.dtype: bfloat16 weights lose updates to rounding (at learning rate 1e-5, 98 %% "
            "of SmolLM2-135M's weights are unchanged after 20 updates), which distorts what a "
            "mask does; use mixed_bfloat16, with float32 weights"
        )


def read_model_config(model: ModelConfig) -> dict[str, Any]:
    """The model's config.json, from its folder, the hub's cache, or the hub.

    Raises ModelError if there is none or the hub cannot be reached; otherwise every trial would
    fail later.
    """
    return _parsed(_config_file(model))


def build_empty(model: ModelConfig) -> Any:
    """The architecture without weights, on the device "meta"."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    read_model_config(model)
    trusted = model.trust_remote_code
    facts = AutoConfig.from_pretrained(
        model.path, revision=model.revision, trust_remote_code=trusted
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(facts, trust_remote_code=trusted)


def count_parameters(model: ModelConfig) -> int | None:
    """The model's number of weights; None if it is not known (see `tensor_shapes`)."""
    return sum(map(math.prod, tensor_shapes(model).values())) or None


def tensor_shapes(model: ModelConfig) -> dict[str, list[int]]:
    """The shape of each weight, from headers of safetensors files: here or on the hub.

    Empty if there are no such files, or the hub does not answer and the cache lacks them.
    """
    try:
        folder = _config_file(model).parent
    except ModelError as error:
        if isinstance(error.__cause__, hub.HubUnreachableError):
            return {}
        raise
    files = _weight_files(folder)
    missing = next((file for file in files if not file.exists()), None)
    if Path(model.path).expanduser().is_dir():
        if missing is not None:
            raise ModelError(
                f"model.path {folder}: {_INDEX} names {missing.name}, which is missing"
            )
    elif not is_downloaded(model):
        return hub.tensor_shapes(model.path, model.revision)
    return {name: shape for file in files for name, shape in _header(file).items()}


def is_downloaded(model: ModelConfig) -> bool:
    """Whether the safetensors files of the model's weights are on this machine."""
    files = _weight_files(_config_file(model).parent)
    return bool(files) and all(file.exists() for file in files)


def _weight_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads, which need not be all safetensors files there."""
    if (folder / _WHOLE).exists():
        return [folder / _WHOLE]
    if not (folder / _INDEX).is_file():
        return []
    names: Any = _parsed(folder / _INDEX).get("weight_map")
    if not isinstance(names, dict):
        raise ModelError(
            f"{folder / _INDEX}: expected an object 'weight_map', found {names!r:.60}"
        )
    return [folder / str(name) for name in sorted(set(names.values()))]


def _header(file: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        return {name: each["shape"] for name, each in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, OverflowError, MemoryError, AttributeError) as error:
        raise ModelError(f"{file}: expected a safetensors file, found none") from error


def _config_file(model: ModelConfig) -> Path:
    """Where config.json is on this machine, downloaded if need be."""
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
        return folder / "config.json"
    if folder.exists() or not hub.may_be_name(model.path):
        found = "a file" if folder.exists() else "nothing there"
        raise ModelError(
            f"model.path: expected a Hugging Face model folder or a hub name such as "
            f"'mistralai/Mistral-7B-v0.1', got {model.path} ({found})"
        )
    try:
        return hub.config_file(model.path, model.revision)
    except hub.HubError as error:
        raise ModelError(f"model.path {model.path}: {error}") from error


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
