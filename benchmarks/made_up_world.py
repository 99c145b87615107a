"""A Llama of random weights with a tokenizer of numbered words, and random examples for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Shape = Mapping[str, int]
MARKS = ("<s>", "</s>", "<unk>")


def _shape(words: int, hidden: int, inner: int, layers: int, heads: int, pairs: int) -> Shape:
    return {
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": pairs,
    }


SHAPES = {
    "tiny": _shape(500, 64, 128, 2, 4, 2),
    "8m": _shape(8192, 256, 688, 8, 8, 8),
    "smollm2": _shape(49152, 576, 1536, 30, 9, 3),  # SmolLM2-135M
    "1b": _shape(32000, 2048, 8192, 16, 32, 8),  # Llama-3.2-1B, but for the vocabulary
}


def save_world(
    folder: Path,
    shape: Shape,
    *,
    context: int,
    lengths: Iterable[int],
    dtype: torch.dtype = torch.float32,
) -> Path:
    """model/, of a LlamaConfig with tied embeddings, and the examples, whose path is returned.

    An example has a word for each of its `length` tokens, the first half of them in the prompt.
    """
    words = {mark: number for number, mark in enumerate(MARKS)}
    words |= {f"w{number}": number for number in range(len(MARKS), shape["vocab_size"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape, max_position_embeddings=context, tie_word_embeddings=True, bos_token_id=0,
        eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder / "model")
    draw = torch.Generator().manual_seed(1)
    rows = folder / "train.jsonl"
    with rows.open("w", encoding="utf-8") as stream:
        for length in lengths:
            ids = torch.randint(len(MARKS), len(words), (length,), generator=draw).tolist()
            text, half = [f"w{number}" for number in ids], length // 2
            row = {"prompt": " ".join(text[:half]), "response": " " + " ".join(text[half:])}
            stream.write(json.dumps(row) + "\n")
    return rows
