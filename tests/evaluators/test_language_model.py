from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from evaluators.language_model import LanguageModel
from evaluators.sampling import Sampling

PROMPTS = ["a", "Question: 1 + 2?\nAnswer:", "x" * 30, "def f(x):\n", "zq", "hello world, hello"]


def naive_greedy(model, tokenizer, prompt: str, limit: int) -> list[int]:
    """One full forward per token, one prompt at a time, no cache."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(prompt, add_special_tokens=False)]
    new: list[int] = []
    model.eval()
    with torch.no_grad():
        while len(new) < limit and tokenizer.eos_token_id not in new:
            logits = model(torch.tensor([ids + new]), use_cache=False).logits[0, -1]
            new.append(int(logits.argmax()))
    return new


def naive_nats(model, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    head = [tokenizer.bos_token_id, *tokenizer.encode(context, add_special_tokens=False)]
    tail = tokenizer.encode(continuation, add_special_tokens=False)
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([head + tail]), use_cache=False).logits[0].double()
    steps = logits.log_softmax(-1)[len(head) - 1 : -1]
    nats = sum(float(row[token]) for row, token in zip(steps, tail, strict=True))
    return nats, steps.argmax(-1).tolist() == tail


def checked(model, tokenizer) -> LanguageModel:
    """One whose fast paths have been compared already: that takes forwards of its own."""
    lm = LanguageModel(model, tokenizer)
    lm.loglikelihood([("a", "b")])
    return lm


def with_end(model, tokenizer, bias: float) -> None:
    """Make the end token likely enough that rows end at different steps."""
    head = nn.Linear(model.config.hidden_size, len(tokenizer), bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()
        head.bias[tokenizer.eos_token_id] = bias
    model.lm_head = head


@pytest.mark.parametrize("batch_tokens", [1, 120, 16384])
def test_generation_equals_naive_decoding_for_every_batch_size(model, tokenizer, batch_tokens):
    with_end(model, tokenizer, bias=6.0)
    lm = LanguageModel(model, tokenizer, batch_tokens=batch_tokens)
    completions = lm.generate(PROMPTS, max_new_tokens=24)
    lengths = set()
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        expected = naive_greedy(model, tokenizer, prompt, 24)
        assert completion.tokens == len(expected)
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.truncated == (tokenizer.eos_token_id not in expected)
        lengths.add(completion.tokens)
    assert len(lengths) > 2  # otherwise dropping finished rows would not be exercised


def test_generation_equals_hugging_face(model, tokenizer):
    completion = LanguageModel(model, tokenizer).generate([PROMPTS[1]], max_new_tokens=20)[0]
    ids = torch.tensor(
        [[tokenizer.bos_token_id, *tokenizer.encode(PROMPTS[1], add_special_tokens=False)]]
    )
    model.eval()
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )
    assert completion.text == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_each_row_ends_at_its_own_stop(model, tokenizer):
    lm = LanguageModel(model, tokenizer)
    free = lm.generate(PROMPTS, max_new_tokens=24)
    stop = free[5].text[3:5]
    stopped = lm.generate(PROMPTS, max_new_tokens=24, stops=[stop, "never occurs"])
    assert stopped[5].text == free[5].text[:3]
    assert stopped[5].tokens == 5
    assert not stopped[5].truncated
    for before, after in zip(free, stopped, strict=True):
        if stop not in before.text:
            assert after == before


def test_loglikelihood_equals_full_logits_for_every_batch_size(model, tokenizer):
    pairs = [(prompt, " " + other) for prompt in PROMPTS[:4] for other in (*PROMPTS, "A", "B")]
    pairs += [(prompt, choice) for prompt in PROMPTS for choice in (" A", " B", " C")]
    greedy = naive_greedy(model, tokenizer, PROMPTS[5], 4)
    pairs.append((PROMPTS[5], tokenizer.decode(greedy)))
    expected = [naive_nats(model, tokenizer, *pair) for pair in pairs]
    for batch_tokens in (1, 200, 16384):
        found = LanguageModel(model, tokenizer, batch_tokens=batch_tokens).loglikelihood(pairs)
        for pair, likelihood, (nats, is_greedy) in zip(pairs, found, expected, strict=True):
            assert likelihood.nats == pytest.approx(nats, abs=1e-3, rel=1e-5)
            assert likelihood.tokens == len(pair[1])
            assert likelihood.is_greedy == is_greedy
    assert expected[-1][1]


def test_loglikelihood_projects_no_context_position(model, tokenizer):
    rows = []
    lm = checked(model, tokenizer)
    model.lm_head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[1]))
    lm.loglikelihood([("x" * 40, "abc"), ("y" * 20, "de")])
    assert rows == [3]


def test_choices_that_differ_in_their_last_token_share_a_forward(model, tokenizer):
    sizes = []
    lm = checked(model, tokenizer)
    model.lm_head.register_forward_hook(lambda _, args, __: sizes.append(args[0].shape[0]))
    lm.loglikelihood([("x", f" {letter}") for letter in "ABCD"])
    assert sizes == [1]


def test_inputs_beyond_the_context_lose_tokens_on_the_left(model, tokenizer):
    lm = LanguageModel(model, tokenizer)
    assert lm.context == 96
    long = "abcdefghij" * 30
    kept = long[-(96 - 8 - 1) :]
    assert lm.generate([long], max_new_tokens=8) == lm.generate([kept], max_new_tokens=8)
    assert lm.generate(["a"], max_new_tokens=10_000)[0].tokens <= 48
    cut = lm.loglikelihood([(long, "xyz")])[0]
    assert cut.nats == pytest.approx(naive_nats(model, tokenizer, long[-93:], "xyz")[0], abs=1e-3)


def test_a_continuation_beyond_the_context_is_scored_completely(model, tokenizer):
    text = "the quick brown fox " * 12
    found = LanguageModel(model, tokenizer).loglikelihood([("start", text)])[0]
    assert found.tokens == len(text)
    assert found.nats < 0 and math.isfinite(found.nats)


def test_modes_random_state_and_configuration_are_left_as_they_were(model, tokenizer):
    model.train()
    model.model.layers[1].eval()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    lm = LanguageModel(model, tokenizer)
    lm.generate(PROMPTS, max_new_tokens=4)
    lm.loglikelihood([("a", "b")])
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.config.use_cache is False
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_mode_is_restored_after_an_error(model, tokenizer):
    model.train()
    model.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LanguageModel(model, tokenizer).loglikelihood([("a", "b")])
    assert model.training and model.lm_head.training


def test_nothing_to_do(model, tokenizer):
    lm = LanguageModel(model, tokenizer)
    assert lm.generate([], max_new_tokens=3) == []
    assert lm.generate([], max_new_tokens=3, sampling=Sampling(1.0)) == []
    assert lm.loglikelihood([]) == []
    assert lm.loglikelihood([("a", "")])[0].nats == 0.0


def test_mistakes_are_named(model, tokenizer):
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, found 0"):
        LanguageModel(model, tokenizer).generate(["a"], max_new_tokens=0)
    with pytest.raises(ValueError, match="stop string must not be empty"):
        LanguageModel(model, tokenizer).generate(["a"], max_new_tokens=1, stops=[""])
