from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluators.tokens import TokenCodec, end_tokens

CODE = "    return x\n        more"


@pytest.fixture
def sentencepiece() -> PreTrainedTokenizerFast:
    """Puts a space before every text, as the tokenizers of Llama 2 and Mistral do."""
    signs = ["<unk>", "<s>", "</s>", "\u2581", "\n", *"abcdefghijklmnopqrstuvwxyz"]
    core = Tokenizer(models.BPE({sign: i for i, sign in enumerate(signs)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_a_character_tokenizer_is_used_as_it_is(tokenizer):
    codec = TokenCodec(tokenizer)
    assert codec.response(CODE) == tokenizer.encode(CODE, add_special_tokens=False)
    assert codec.prompt("ab")[0] == tokenizer.bos_token_id
    assert codec.text(codec.response(CODE)) == CODE


def test_a_response_gets_no_space_of_its_own(sentencepiece):
    codec = TokenCodec(sentencepiece)
    ids = codec.response(CODE)
    assert len(ids) == len(CODE)
    assert codec.text(ids) == CODE
    # What plain use would do: one space too many before, one too few after.
    assert len(sentencepiece.encode("return", add_special_tokens=False)) == 7
    assert len(codec.response("return")) == 6
    assert sentencepiece.decode(ids) == CODE[1:]


def test_end_tokens_come_from_tokenizer_and_model(tokenizer):
    class Settings:
        eos_token_id = (1, 7)

    assert end_tokens(tokenizer, Settings()) == {1, 2, 7}
    assert end_tokens(tokenizer, None) == {2}
