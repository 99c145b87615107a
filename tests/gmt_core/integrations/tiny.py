"""A Llama of a few thousand parameters, a tokenizer and rows, all made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
WORDS = [*NUMBERS, "plus", "is", "question:", "answer:"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; the chat template joins the messages' contents."""
    vocabulary = {word: place for place, word in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    vocabulary["<unk>"] = len(vocabulary)
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def sums() -> list[tuple[str, str, str]]:
    """Question, right answer, wrong answer."""
    return [
        (
            f"question: {NUMBERS[a]} plus {NUMBERS[b]} is",
            f"answer: {NUMBERS[a + b + 1]}",
            f"answer: {NUMBERS[a + b]}",
        )
        for a in range(4)
        for b in range(5)
    ]


def token_rows(count: int = 40) -> Dataset:
    """Rows of eight token ids, each its own label."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, len(WORDS), (count, 8), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def save_model(folder: Path) -> Path:
    """Model and tokenizer as a user's local folder."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
