"""A prompt begins as the family's tokenizer begins a text, unless `add_bos` says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluators.benchmark import protocol_sha256
from evaluators.benchmarks import build
from evaluators.item_cache import evaluation_key
from evaluators.language_model import LanguageModel
from evaluators.tokens import TokenCodec
from tests.evaluators.conftest import build_model
from tests.evaluators.tokenizer_families import (
    ENDED,
    FAMILIES,
    ONLY_ENDED,
    TWO_AHEAD,
    Family,
)

TEXTS = ("What is 1+2?\nAnswer:", "the sum", " led by a space", "x")
EVERY = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def ids(tokenizer: Any, *tokens: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@EVERY
def test_a_prompt_is_what_the_tokenizer_makes_of_it(tmp_path: Path, family: Family) -> None:
    tokenizer = family.load(tmp_path)
    codec = TokenCodec(tokenizer)
    assert list(codec.head) == ids(tokenizer, *family.added)
    assert codec.add_bos is None
    for text in TEXTS:
        assert codec.prompt(text) == tokenizer(text).input_ids
        assert codec.prompt(text)[len(codec.head) :] == plain(tokenizer, text)


@EVERY
def test_bos_is_added_or_left_out_where_that_is_asked(tmp_path: Path, family: Family) -> None:
    tokenizer = family.load(tmp_path)
    without = TokenCodec(tokenizer, False)
    assert [without.prompt(text) for text in TEXTS] == [plain(tokenizer, t) for t in TEXTS]
    if family.bos is None:
        with pytest.raises(ValueError, match=r"add_bos: true needs .* expected 'auto' or false"):
            TokenCodec(tokenizer, True)
        return
    begun = TokenCodec(tokenizer, True)
    for text in TEXTS:
        assert begun.prompt(text) == [tokenizer.bos_token_id, *plain(tokenizer, text)]
    assert begun.response("x") == without.response("x") == TokenCodec(tokenizer).response("x")


@EVERY
def test_the_fingerprint_knows_an_override_that_changes_ids(
    tmp_path: Path, family: Family
) -> None:
    tokenizer = family.load(tmp_path)
    benchmark, text = build("exact_match"), TEXTS[0]
    auto = TokenCodec(tokenizer)
    for add_bos in (True, False) if family.bos else (False,):
        codec = TokenCodec(tokenizer, add_bos)
        changed = codec.prompt(text) != auto.prompt(text)
        assert changed == (add_bos != bool(family.added))
        assert codec.add_bos == (add_bos if changed else None)
        prints = {protocol_sha256(benchmark, each.add_bos) for each in (auto, codec)}
        keys = {evaluation_key("0", benchmark, [], each.add_bos) for each in (auto, codec)}
        assert len(prints) == len(keys) == 1 + changed


@pytest.mark.parametrize("family", [ENDED, ONLY_ENDED], ids=lambda family: family.name)
def test_an_end_that_the_tokenizer_appends_is_not_part_of_a_prompt(
    tmp_path: Path, family: Family
) -> None:
    tokenizer = family.load(tmp_path)
    for text in TEXTS:
        *whole, end = tokenizer(text).input_ids
        assert end == tokenizer.eos_token_id
        assert TokenCodec(tokenizer).prompt(text) == whole
        assert TokenCodec(tokenizer, False).prompt(text) == plain(tokenizer, text)


def test_a_word_that_is_no_choice_is_named(tokenizer) -> None:
    with pytest.raises(ValueError, match="add_bos: expected 'auto', True or False, got 'false'"):
        TokenCodec(tokenizer, "false")  # type: ignore[arg-type]


def test_several_tokens_before_a_text_stay_together(tmp_path: Path) -> None:
    tokenizer = TWO_AHEAD.load(tmp_path)
    codec = TokenCodec(tokenizer)
    assert codec.prompt("x") == tokenizer("x").input_ids
    assert list(codec.head) == ids(tokenizer, "[gMASK]", "<sop>")
    assert codec.prompt("[gMASK]<sop>x") == codec.prompt("x")
    assert TokenCodec(tokenizer, False).head == codec.head  # neither of them is BOS


@EVERY
def test_a_rendered_template_gets_no_second_bos(tmp_path: Path, family: Family) -> None:
    tokenizer = family.load(tmp_path)
    for add_bos in ("auto", True) if family.bos else ("auto",):
        codec = TokenCodec(tokenizer, add_bos)
        rendered = f"{family.bos or ''}user: hi"
        assert codec.prompt(rendered).count(tokenizer.bos_token_id) == bool(family.bos)
        assert codec.prompt(rendered) == plain(tokenizer, rendered)


@EVERY
def test_an_empty_text_begins_with_bos_or_eos(tmp_path: Path, family: Family) -> None:
    tokenizer = family.load(tmp_path)
    expected = ids(tokenizer, family.bos or family.eos)
    assert TokenCodec(tokenizer).prompt("") == TokenCodec(tokenizer, False).prompt("") == expected


def test_a_byte_level_tokenizer_that_only_declares_bos_needs_the_override(tmp_path: Path) -> None:
    """transformers 5 takes `add_bos_token` of tokenizer_config.json for nothing here."""
    tokenizer = Family("declares", "LlamaTokenizerFast", "<s>", "</s>", declared=True).load(
        tmp_path
    )
    assert TokenCodec(tokenizer).prompt("x") == tokenizer("x").input_ids == plain(tokenizer, "x")
    assert TokenCodec(tokenizer, True).prompt("x")[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("add_bos", ["auto", True, False])
def test_truncation_keeps_what_begins_a_prompt_and_nothing_else(add_bos: Any, tokenizer) -> None:
    model = build_model(tokenizer, context=16)
    seen: list[list[int]] = []
    model.model.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["input_ids"][0].tolist()), with_kwargs=True
    )
    lm = LanguageModel(model, tokenizer, add_bos=add_bos)
    lm.loglikelihood([("abcdefghijklmnopqrstuvwxyz", "!")])
    text = "lmnopqrstuvwxyz" if lm.codec.head else "klmnopqrstuvwxyz"
    assert seen[-1] == [*lm.codec.head, *plain(tokenizer, text)]
    assert lm.add_bos is (False if add_bos is False else None)
