from __future__ import annotations

import string

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evaluators.errors import SandboxError
from evaluators.sandbox import LEVELS, resolve_level

CONTEXT = 96


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, after BOS."""
    signs = ["<pad>", "<s>", "</s>", "<unk>", *string.printable[:95], "\n"]
    core = Tokenizer(
        models.WordLevel({sign: index for index, sign in enumerate(signs)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", signs.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, seed: int = 0, context: int = CONTEXT
) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Wide enough that the largest logit is never nearly tied.
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@pytest.fixture
def model(tokenizer) -> LlamaForCausalLM:
    return build_model(tokenizer)


def usable(level: str) -> bool:
    try:
        return resolve_level(level) == level
    except SandboxError:
        return False


@pytest.fixture(
    params=[
        pytest.param(level, marks=pytest.mark.skipif(not usable(level), reason=f"no {level} here"))
        for level in LEVELS
    ]
)
def level(request) -> str:
    return request.param
