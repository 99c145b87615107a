"""Every architecture is exact, by the fast paths or without them, or refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from evaluators import exactness, likelihood, prefixes
from evaluators.errors import InexactModelError
from evaluators.exactness import PLAIN_PATHS, Paths
from evaluators.forward import Forward
from evaluators.language_model import LanguageModel
from tests.evaluators.families import build_family

ALL, UNSHARED = Paths(), Paths(shared=False)
EQUAL = Paths(shared=False, padded=False)
UNCACHED = Paths(shared=False, cached=False)
FAMILIES = {
    ALL: "apertus arcee biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v2 deepseek_v3 "
    "diffllama dots1 ernie4_5 exaone4 falcon gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode "
    "gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium jetmoe llama llama4_text minicpm3 "
    "mistral mixtral mpt nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 "
    "qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2 xglm",
    UNSHARED: "bamba falcon_h1 falcon_mamba granitemoehybrid jamba lfm2 mamba mamba2 nemotron_h "
    "qwen3_5_text qwen3_next recurrent_gemma",
    EQUAL: "bart",
    UNCACHED: "minimax openai-gpt",
    PLAIN_PATHS: "rwkv xlstm",
}
FIRST = [(7 * place + 5) % 60 + 4 for place in range(20)]
ROWS = [
    FIRST + [(11 * place + 3 * row + 5) % 60 + 4 for place in range(count)]
    for row, count in enumerate((3, 14, 6, 9))
]
ROWS.append([5, 6, 7])
PAIRS = [
    (row, [(13 * place + row[-1]) % 60 + 4 for place in range(count)])
    for row, count in zip(ROWS * 2, (1, 4, 2, 7, 3, 1, 1, 2, 9, 5), strict=True)
]
ENDS = {2, *range(4, 14)}  # many, so that rows end at different steps
LIMIT = 12

Patch = pytest.MonkeyPatch


@torch.no_grad()
def plain_greedy(model: Any, row: Sequence[int]) -> list[int]:
    """One full forward per token, one prompt at a time, no cache."""
    new: list[int] = []
    while len(new) < LIMIT and not ENDS & set(new):
        logits = model(torch.tensor([[*row, *new]]), use_cache=False).logits
        new.append(int(logits[0, -1].argmax()))
    return new


@torch.no_grad()
def plain_nats(model: Any, head: Sequence[int], tail: Sequence[int]) -> float:
    logits = model(torch.tensor([[*head, *tail]]), use_cache=False).logits[0]
    steps = logits.double().log_softmax(-1)[len(head) - 1 : -1]
    return sum(float(step[token]) for step, token in zip(steps, tail, strict=True))


def check_exact(lm: LanguageModel, patch: Patch) -> None:
    """Generation and log-likelihoods, whole and in pieces, are those of single rows."""
    patch.setattr(prefixes, "LEAST_SAVING", 20)
    if lm.model.generation_config is not None:
        lm.model.generation_config.eos_token_id = sorted(ENDS)
    for row, found in zip(ROWS, lm.generate_ids(ROWS, max_new_tokens=LIMIT), strict=True):
        expected = plain_greedy(lm.model, row)
        assert (found.tokens, found.text) == (len(expected), lm.codec.text(expected))
    nats = [plain_nats(lm.model, *pair) for pair in PAIRS]
    for elements in (2**27, 400):
        patch.setattr(likelihood, "LOGIT_ELEMENTS", elements)
        found = [each.nats for each in lm.loglikelihood_ids(PAIRS)]
        assert found == pytest.approx(nats, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "paths"), [(name, paths) for paths, names in FAMILIES.items() for name in names.split()]
)
def test_every_family_is_exact(tokenizer, monkeypatch, caplog, name, paths):
    lm = LanguageModel(build_family(name, len(tokenizer)), tokenizer)
    check_exact(lm, monkeypatch)
    assert exactness.exact_paths(lm.forward) == paths
    said = [each for each in caplog.messages if "is evaluated without" in each]
    assert len(said) == (0 if paths == ALL else 2)  # once per language model, once above
