"""Load and save models and tokenizers through transformers, with clear errors."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sweeps.finetune.adapter import merged_state, save_adapter
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model_facts import (
    ModelError,
    check_attention,
    is_mixed,
    read_model_config,
)
from sweeps.finetune.parallel import blocks
from sweeps.storage.atomic_io import atomic_rename_dir, partial_of

SHARD = "5GB"
"""The most bytes of a safetensors file, so that a part of a large model can be uploaded again."""

_LOADING = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def load_model(config: ModelConfig, device: torch.device) -> tuple[Any, Any]:
    """The causal language model on the CPU, in the dtype for `device`, and its tokenizer."""
    read_model_config(config)
    check_attention(config)
    # Importing it takes seconds, so only processes that load a model do.
    from transformers import AutoModelForCausalLM

    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    tokenizer = load_tokenizer(config)
    try:
        with _bars_on_terminals_only():
            model, info = from_pretrained(
                config.path,
                dtype=training_dtype(config.dtype),
                attn_implementation=_attention(config, device),
                output_loading_info=True,
                **_options(config),
            )
    except _LOADING as error:
        raise _not_loaded(config, error) from error
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(
            f"model.path {config.path}: the weights lack {len(info['missing_keys'])} tensors "
            f"of the architecture, such as {some}"
        )
    if config.added_tokens:
        _add_embeddings(model, tokenizer, config.added_tokens)
    return model, tokenizer


def _add_embeddings(model: Any, tokenizer: Any, added: Sequence[str]) -> None:
    """Give new tokens an embedding near the mean of the others, the same on every rank."""
    if len(tokenizer) <= model.get_input_embeddings().num_embeddings:
        return  # a saved model has them already
    check_vocabulary(model, tokenizer, added)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=True)


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's tokenizer with the added tokens; ModelError if it cannot be loaded."""
    from transformers import AddedToken, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(config.path, **_options(config))
    except _LOADING as error:
        raise _not_loaded(config, error) from error
    # Matched in the text as it is, because a normalizer may add spaces.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in config.added_tokens])
    return tokenizer


def _options(config: ModelConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def _not_loaded(config: ModelConfig, error: Exception) -> ModelError:
    reason = " ".join(str(error).split())
    return ModelError(f"model.path {config.path}: cannot be loaded: {reason}")


def prepare_training(model: Any, config: ModelConfig) -> None:
    """Enable the options of `config`; call it before the model is sharded."""
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        # Block by block: blocks share compiled code, and the loss's hooks stay outside.
        for block in blocks(model):
            block.compile()


def add_stop_tokens(model: Any, ends: Sequence[int]) -> None:
    """Let generation stop at `ends` too, now and when the saved model is loaded."""
    config = model.generation_config
    found = config.eos_token_id
    declared = found if isinstance(found, list) else [] if found is None else [found]
    if not set(ends) <= set(declared):
        config.eos_token_id = [*declared, *(end for end in ends if end not in declared)]


def save_model(model: Any, tokenizer: Any, folder: Path, state: dict[str, Any]) -> None:
    """Write a folder that `from_pretrained` loads, with the tensors of `state`.

    An adapter is merged into them, and kept in the folder `adapter` within. The folder is written
    beside its final path and renamed atomically (see `atomic_rename_dir`).
    """
    partial = partial_of(folder)
    with _bars_on_terminals_only():
        model.save_pretrained(partial, state_dict=merged_state(model, state), max_shard_size=SHARD)
        tokenizer.save_pretrained(partial)
    save_adapter(model, partial / "adapter", state)
    for file in partial.rglob("*.safetensors"):  # safetensors lets only the owner read its files
        shutil.copymode(partial / "config.json", file)
    atomic_rename_dir(partial, folder)


def training_dtype(name: str) -> torch.dtype:
    """The dtype of the weights."""
    dtype: torch.dtype = getattr(torch, name, torch.float32)
    return dtype


def computing_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype for matrix products if it differs from the weights' dtype; else None."""
    return torch.bfloat16 if is_mixed(name, device.type) else None


def _attention(config: ModelConfig, device: torch.device) -> str | None:
    """The attention to request from transformers; None lets it choose (SDPA if available)."""
    if config.attention != "auto":
        return config.attention
    from transformers.utils import is_flash_attn_2_available

    computed = computing_dtype(config.dtype, device) or training_dtype(config.dtype)
    fits = device.type == "cuda" and computed == torch.bfloat16
    return "flash_attention_2" if fits and is_flash_attn_2_available() else None


def check_vocabulary(model: Any, tokenizer: Any, added: Sequence[str] = ()) -> None:
    """Raise ModelError if the model embeds not all tokens of the tokenizer but those `added`."""
    known = model.get_input_embeddings().num_embeddings
    beyond = {word for word, index in tokenizer.get_vocab().items() if index >= known}
    if unknown := sorted(beyond.difference(added)):
        some = ", ".join(map(repr, unknown[:3]))
        raise ModelError(
            f"the tokenizer has {len(tokenizer)} tokens, but the model embeds only {known}: "
            f"it has no row for {some}. Either use the tokenizer without these tokens, or list "
            f"them in model.added_tokens, which adds their rows to the embeddings"
        )


@contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Silence the progress bars of transformers, which are noise in a worker's log."""
    from transformers.utils import logging

    silenced = logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if silenced:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if silenced:
            logging.enable_progress_bar()
