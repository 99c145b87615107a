"""The engine's fast paths give what its plain path gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    Lfm2Config,
    Lfm2ForCausalLM,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
    TopPLogitsWarper,
)

from evaluators import likelihood, prefixes
from evaluators.batching import TokenBudget, is_out_of_memory
from evaluators.errors import EvaluationError
from evaluators.kv_cache import is_plain
from evaluators.language_model import LanguageModel
from evaluators.sampler import Sampler
from evaluators.sampling import Sampling, sample_seed
from tests.evaluators.test_language_model import checked

SHOTS = "Q: 1 + 1?\nA: 2\n\nQ: 2 + 2?\nA: 4\n\n"
PROMPTS = [SHOTS + f"Q: {text}?\nA:" for text in ("3", "4 + 4", "5 + 5 + 5", "x", "3")]
PROMPTS += ["unlike the others", "a"]
PAIRS = [(prompt, tail) for prompt in PROMPTS for tail in (" yes", " no it is", " A", " B", "")]

Patch = pytest.MonkeyPatch


# Wide enough that the largest logit is never nearly tied.
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build_mistral(tokenizer, window: int) -> MistralForCausalLM:
    config = MistralConfig(vocab_size=len(tokenizer), sliding_window=window, **SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MistralForCausalLM(config)


@pytest.fixture(params=["llama", "mistral"])
def any_model(request, model, tokenizer):
    return model if request.param == "llama" else build_mistral(tokenizer, 80)


def never_shared(patch: Patch) -> None:
    patch.setattr(prefixes, "LEAST_SAVING", 10**9)


def close(found, expected) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
        assert (mine.tokens, mine.is_greedy) == (theirs.tokens, theirs.is_greedy)


def count_tokens(model, work: Callable[[], object]) -> int:
    seen: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(
        lambda _, args, __: seen.append(args[0].numel())
    )
    work()
    hook.remove()
    return sum(seen)


def test_a_shared_prefix_changes_nothing_but_the_work(any_model, tokenizer, monkeypatch):
    lm = LanguageModel(any_model, tokenizer)
    monkeypatch.setattr(prefixes, "LEAST_SAVING", 30)
    shared = lm.generate(PROMPTS, max_new_tokens=12), lm.loglikelihood(PAIRS)
    work = count_tokens(any_model, lambda: lm.loglikelihood(PAIRS))
    never_shared(monkeypatch)
    assert lm.generate(PROMPTS, max_new_tokens=12) == shared[0]
    close(shared[1], lm.loglikelihood(PAIRS))
    assert work < 0.6 * count_tokens(any_model, lambda: lm.loglikelihood(PAIRS))


@pytest.mark.parametrize("window", [16, 50, 80])
def test_a_sliding_window_equals_hugging_face(tokenizer, monkeypatch, window):
    monkeypatch.setattr(prefixes, "LEAST_SAVING", 1)
    model = build_mistral(tokenizer, window).eval()
    found = LanguageModel(model, tokenizer).generate(PROMPTS, max_new_tokens=20)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([[1, *tokenizer.encode(prompt, add_special_tokens=False)]])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
        )
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert completion.text == text


def test_a_model_with_recurrent_layers_works_without_sharing(tokenizer):
    layers = ["conv", "full_attention"]
    config = Lfm2Config(vocab_size=len(tokenizer), layer_types=layers, **SHAPE)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Lfm2ForCausalLM(config).eval()
    assert not is_plain(config)
    together = LanguageModel(model, tokenizer)
    alone = LanguageModel(model, tokenizer, batch_size=1)
    same_length = [prompt[:20] for prompt in PROMPTS[:3]]
    assert together.generate(same_length, max_new_tokens=8) == alone.generate(
        same_length, max_new_tokens=8
    )


@pytest.mark.parametrize("elements", [1, 400, 5000])
def test_long_continuations_are_priced_in_pieces(model, tokenizer, monkeypatch, elements):
    pairs = [(PROMPTS[0][:20], "some text of medium length"), ("a", "b"), ("start", "xy" * 30)]
    whole = LanguageModel(model, tokenizer).loglikelihood(pairs)
    monkeypatch.setattr(likelihood, "LOGIT_ELEMENTS", elements)
    sizes: list[int] = []
    lm = checked(model, tokenizer)
    model.lm_head.register_forward_hook(lambda _, __, logits: sizes.append(logits.numel()))
    close(lm.loglikelihood(pairs), whole)
    assert max(sizes) <= max(elements, len(tokenizer))


def fails_above(model, tokens: int) -> list[tuple[int, ...]]:
    """Make forwards of more than `tokens` tokens run out of memory; the shapes that were tried."""
    tried: list[tuple[int, ...]] = []

    def check(_, args) -> None:
        tried.append(tuple(args[0].shape))
        if args[0].numel() > tokens:
            raise torch.OutOfMemoryError("out of memory (made up)")

    model.model.embed_tokens.register_forward_pre_hook(check)
    return tried


def test_out_of_memory_halves_the_batch_and_goes_on(model, tokenizer):
    plain = LanguageModel(model, tokenizer)
    expected = plain.generate(PROMPTS, max_new_tokens=6), plain.loglikelihood(PAIRS)
    tried = fails_above(model, 110)
    lm = LanguageModel(model, tokenizer)
    assert lm.generate(PROMPTS, max_new_tokens=6) == expected[0]
    close(lm.loglikelihood(PAIRS), expected[1])
    assert lm.batch_tokens < 400
    failures = [shape for shape in tried if math.prod(shape) > 110]
    assert 1 <= len(failures) <= 6
    tried.clear()
    lm.loglikelihood(PAIRS)  # what was found out is remembered
    assert all(math.prod(shape) <= 110 for shape in tried)


def test_one_sequence_that_does_not_fit_is_an_error(model, tokenizer):
    fails_above(model, 10)
    model.train()
    with pytest.raises(EvaluationError, match="Memory ran out with a batch of 1"):
        LanguageModel(model, tokenizer).loglikelihood(PAIRS)
    assert model.training


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    calls: list[list[int]] = []

    def broken(group: list[int]) -> None:
        calls.append(group)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        TokenBudget(100).run([1, 2, 3], lambda *_: True, broken)
    assert calls == [[2, 1, 0]]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=12))
@settings(max_examples=150, deadline=None)
def test_clusters_cover_each_row_once_and_share_what_they_say(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "LEAST_SAVING", 3)
        clusters = prefixes.shared_prefixes(rows)
    assert sorted(index for each in clusters for index in each.members) == list(range(len(rows)))
    for cluster in clusters:
        beginnings = {tuple(rows[index][: cluster.shared]) for index in cluster.members}
        assert len(beginnings) == 1
        assert all(len(rows[index]) > cluster.shared for index in cluster.members)


def test_tasks_with_shots_of_their_own_get_clusters_of_their_own():
    rows = [[task] * 200 + [item] for task in (1, 2) for item in range(5)] + [[3, 4]]
    found = {(each.members, each.shared) for each in prefixes.shared_prefixes(rows)}
    assert found == {((0, 1, 2, 3, 4), 200), ((5, 6, 7, 8, 9), 200), ((10,), 0)}


def test_samples_depend_on_their_seed_alone(model, tokenizer, monkeypatch):
    seeds = [sample_seed(f"item{n // 4}", n % 4) for n in range(8)]
    prompts = [PROMPTS[0]] * 4 + [PROMPTS[5]] * 4
    draw = {"max_new_tokens": 16, "sampling": Sampling(3.0, 0.9)}
    expected = LanguageModel(model, tokenizer).generate(prompts, seeds=seeds, **draw)
    assert len({completion.text for completion in expected}) == 8
    for batch_size in (1, 3):
        lm = LanguageModel(model, tokenizer, batch_size=batch_size)
        assert lm.generate(prompts, seeds=seeds, **draw) == expected
    backwards = LanguageModel(model, tokenizer).generate(prompts[::-1], seeds=seeds[::-1], **draw)
    assert backwards[::-1] == expected
    never_shared(monkeypatch)
    assert LanguageModel(model, tokenizer).generate(prompts, seeds=seeds, **draw) == expected


def test_draws_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    draws = 4000
    sampler = Sampler(Sampling(2.0), [sample_seed("x", n) for n in range(draws)], 1)
    tokens = sampler(logits.expand(draws, -1), range(draws), 0)
    expected = (logits[0] / 2).softmax(-1) * draws
    observed = tokens.bincount(minlength=4)
    # Chi-square with 3 degrees of freedom: 16.3 is the 99.9 % quantile.
    assert ((observed - expected) ** 2 / expected).sum() < 16.3


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=9), st.floats(0.05, 1.0))
@settings(max_examples=80, deadline=None)
def test_the_nucleus_is_the_one_of_hugging_face(values, top_p):
    logits = torch.tensor([values])
    ordered = logits.softmax(-1).sort(descending=True).values
    # Between equals, and at the border, rounding decides.
    assume((ordered.cumsum(-1) - top_p).abs().min() > 1e-4 and ordered.diff().max() < -1e-5)
    warped = LogitsProcessorList([TopPLogitsWarper(top_p)])(torch.zeros(1, 1).long(), logits)
    allowed = set(warped[0].isfinite().nonzero()[:, 0].tolist())
    sampler = Sampler(Sampling(1.0, top_p), range(200), 1)
    assert set(sampler(logits.expand(200, -1), range(200), 0).tolist()) <= allowed
    kept = sampler._nucleus(logits.softmax(-1))[0].nonzero()[:, 0].tolist()
    assert set(kept) == allowed


def test_mistakes_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="temperature must be above 0, found 0"):
        Sampling(0)
    with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], found 2"):
        Sampling(1.0, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        LanguageModel(model, tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="one seed for each of 2 prompts"):
        LanguageModel(model, tokenizer).generate(
            ["a", "b"], max_new_tokens=1, sampling=Sampling(1.0), seeds=[1]
        )
