"""Every architecture is exact, by the fast paths or without them, or refused."""

from __future__ import annotations

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
    ALL: "arcee biogpt bitnet bloom codegen cohere cohere2 ctrl deepseek_v2 deepseek_v3 "
    "diffllama dots1 ernie4_5 exaone4 falcon gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode "
    "gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium jetmoe llama llama4_text minicpm3 "
    "mistral mixtral mpt nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 "
    "qwen2_moe qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2 xglm",
    UNSHARED: "bamba falcon_h1 falcon_mamba granitemoehybrid jamba lfm2 mamba mamba2 nemotron_h "
    "qwen3_5_text qwen3_next",
    EQUAL: "bart recurrent_gemma",
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
        said = expected[:-1] if expected[-1] in ENDS else expected
        assert (found.tokens, found.text) == (len(expected), lm.codec.text(said))
    nats = [plain_nats(lm.model, *pair) for pair in PAIRS]
    for elements in (2**27, 400):
        patch.setattr(likelihood, "LOGIT_ELEMENTS", elements)
        found = [each.nats for each in lm.loglikelihood_ids(PAIRS)]
        assert found == pytest.approx(nats, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "paths"),
    [(name, paths) for paths, names in FAMILIES.items() for name in names.split()],
)
def test_every_family_is_exact(tokenizer, monkeypatch, caplog, name, paths):
    lm = LanguageModel(build_family(name, len(tokenizer)), tokenizer)
    check_exact(lm, monkeypatch)
    assert lm._exact == paths
    said = [each for each in caplog.messages if "is evaluated without" in each]
    assert len(said) == (0 if paths == ALL else 1)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "cpmant"])
def test_a_model_that_reads_what_follows_is_refused(tokenizer, name):
    model = build_family(name, len(tokenizer))
    with pytest.raises(InexactModelError, match=r"cannot be evaluated exactly .the score"):
        LanguageModel(model, tokenizer).loglikelihood_ids(PAIRS)


def test_a_model_that_cannot_be_called_is_refused(tokenizer, monkeypatch):
    model = build_family("llama", len(tokenizer))
    monkeypatch.setattr(model.model, "forward", lambda *_, **__: {}["hidden"])
    with pytest.raises(InexactModelError, match=r"LlamaForCausalLM cannot .* .KeyError: 'hid"):
        LanguageModel(model, tokenizer).generate_ids(ROWS, max_new_tokens=2)


@pytest.mark.parametrize("name", ["llama", "mamba", "recurrent_gemma"])
def test_every_slower_path_is_exact(tokenizer, monkeypatch, name):
    for paths in exactness._FASTEST_FIRST[3 if name == "recurrent_gemma" else 1 :]:
        lm = LanguageModel(build_family(name, len(tokenizer)), tokenizer)
        monkeypatch.setattr("evaluators.language_model.exact_paths", lambda _, paths=paths: paths)
        check_exact(lm, monkeypatch)


def test_a_diverged_model_is_not_refused(tokenizer):
    model = build_family("llama", len(tokenizer))
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    assert LanguageModel(model, tokenizer).loglikelihood_ids(PAIRS)[0].nats != 0


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_follow_the_longest_row_are_exact(tokenizer, monkeypatch, kind):
    rope = {"rope_type": kind, "original_max_position_embeddings": 30, "factor": 4.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 10000.0}
    model = build_family("llama", len(tokenizer), rope_parameters=rope)
    assert exactness.steady_positions(model.config) == 30
    check_exact(LanguageModel(model, tokenizer), monkeypatch)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_inexactness(tokenizer, dtype):
    for name in ("llama", "mixtral", "gemma2", "mpt"):
        model = build_family(name, len(tokenizer)).to(dtype)
        with torch.no_grad():
            assert exactness.exact_paths(Forward(model)) == ALL


def test_the_comparison_costs_little(tokenizer):
    model = build_family("llama", len(tokenizer))
    seen: list[int] = []
    model.model.embed_tokens.register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )
    lm = LanguageModel(model, tokenizer)
    lm.loglikelihood_ids(PAIRS)
    once = len(seen)
    lm.loglikelihood_ids(PAIRS)
    spent = seen[: once - (len(seen) - once)]
    assert len(spent) <= 8 and sum(spent) <= 100


def test_autocast_computes_as_training_does(tokenizer):
    model = build_family("llama", len(tokenizer))
    head, tail = PAIRS[1]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = plain_nats(model, head, tail)
    lm = LanguageModel(model, tokenizer, computes_in=torch.bfloat16)
    assert lm.loglikelihood_ids([(head, tail)])[0].nats == pytest.approx(mixed, rel=1e-6)
    assert mixed != pytest.approx(plain_nats(model, head, tail), rel=1e-6)
    assert lm.generate_ids(ROWS, max_new_tokens=LIMIT)


def test_a_comparison_is_made_once_and_left_out_where_nothing_is_asked(tokenizer, monkeypatch):
    compared: list[Forward] = []
    monkeypatch.setattr(
        "evaluators.language_model.exact_paths", lambda forward: compared.append(forward) or ALL
    )
    lm = LanguageModel(build_family("llama", len(tokenizer)), tokenizer)
    assert lm.loglikelihood_ids([]) == [] and lm.generate_ids([], max_new_tokens=1) == []
    assert not compared
    lm.generate_ids(ROWS, max_new_tokens=1)
    lm.loglikelihood_ids(PAIRS)
    assert len(compared) == 1
