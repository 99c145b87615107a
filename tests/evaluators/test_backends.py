"""The harness and vLLM behind the interface: equal numbers, or a word that they are missing."""

from __future__ import annotations

import importlib.util
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from evaluators.harness_guards import MissingHarness
from evaluators.language_model import LanguageModel
from evaluators.lm_eval_backend import harness_model
from evaluators.sampling import Sampling
from evaluators.vllm_backend import MissingVllm, VllmModel
from tests.evaluators.tokenizer_families import FAMILIES

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
)
# What the harness's dependencies warn about is theirs.
quiet = pytest.mark.filterwarnings("ignore")


@needs_harness
@quiet
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_text_begins_as_for_the_harness_s_own_model(tmp_path, model, family):
    from lm_eval.models.huggingface import HFLM

    tokenizer = family.load(tmp_path)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer)
    ours = harness_model(LanguageModel(model, tokenizer))
    assert ours.prefix_token_id == theirs.prefix_token_id
    for text in ("Is 1+2 3?", "x", f"{tokenizer.decode(theirs.prefix_token_id)}user: hi"):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours._encode_pair(text, " yes") == theirs._encode_pair(text, " yes")
    plain = harness_model(LanguageModel(model, tokenizer, add_bos=False))
    assert plain.tok_encode("x") == theirs.tok_encode("x", add_special_tokens=False)


def test_a_missing_harness_is_named(monkeypatch, model, tokenizer):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingHarness, match=r"gmt-sweep\[eval\]"):
        harness_model(LanguageModel(model, tokenizer))
    with pytest.raises(MissingVllm, match=r"gmt-sweep\[vllm\]"):
        VllmModel(Path("anywhere"))


@dataclass
class FakeParameters:
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    seed: int | None = None
    prompt_logprobs: int | None = None


class FakeEngine:
    """vLLM's offline engine as its documentation has it, computed by a model in memory."""

    loaded: LanguageModel

    def __init__(self, model: str, seed: int, enable_prefix_caching: bool, dtype: str) -> None:
        assert (model, seed, enable_prefix_caching, dtype) == ("folder", 7, True, "float32")

    def get_tokenizer(self):
        return self.loaded.tokenizer

    def generate(self, prompts, parameters, use_tqdm):
        return [
            self._one(p["prompt_token_ids"], q) for p, q in zip(prompts, parameters, strict=True)
        ]

    def _one(self, ids, wanted):
        made = self.loaded.generate_ids([ids], max_new_tokens=wanted.max_tokens, stops=wanted.stop)
        reason = "length" if made[0].truncated else "stop"
        best = types.SimpleNamespace(
            text=made[0].text, token_ids=range(made[0].tokens), finish_reason=reason
        )
        logprobs = None
        if wanted.prompt_logprobs:
            logprobs = [None]
            with torch.no_grad():
                rows = self.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for row, token in zip(rows, ids[1:], strict=False):
                rank = int((row > row[token]).sum()) + 1
                entry = types.SimpleNamespace(logprob=float(row[token]), rank=rank)
                logprobs.append({token: entry})
        return types.SimpleNamespace(outputs=[best], prompt_logprobs=logprobs)


def test_vllm_answers_like_the_engine(monkeypatch, model, tokenizer):
    """Against a stand-in for vLLM, which no test machine has."""
    lm = LanguageModel(model.eval(), tokenizer)
    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams = FakeEngine, FakeParameters
    FakeEngine.loaded = lm
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: fake)
    served = VllmModel(Path("folder"), seed=7, dtype="float32")
    prompts = ["a", "Question: 1 + 2?\nAnswer:"]
    assert served.generate(prompts, max_new_tokens=9, stops=["x"]) == lm.generate(
        prompts, max_new_tokens=9, stops=["x"]
    )
    pairs = [("ab", " cd"), ("x", ""), (prompts[1], " 3")]
    for mine, theirs in zip(served.loglikelihood(pairs), lm.loglikelihood(pairs), strict=True):
        assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
        assert (mine.tokens, mine.is_greedy) == (theirs.tokens, theirs.is_greedy)
    plain = VllmModel(Path("folder"), seed=7, dtype="float32", add_bos=False)
    without = LanguageModel(model, tokenizer, add_bos=False)
    assert (served.add_bos, plain.add_bos) == (None, False)
    mine, theirs = plain.loglikelihood(pairs[:1])[0], without.loglikelihood(pairs[:1])[0]
    assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
    assert mine.nats != pytest.approx(served.loglikelihood(pairs[:1])[0].nats, abs=1e-4)
    with pytest.raises(ValueError, match="one seed for each of 2 prompts"):
        served.generate(prompts, max_new_tokens=1, sampling=Sampling(1.0), seeds=[1])
