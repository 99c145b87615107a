"""Pretrain the embedded model: `python tools/pretrain_mini.py` writes what ships in sweeps/mini.

It is pretrained on the domains' skills, mostly in other forms. Seeded: the same arguments, library
versions and thread count give the same weights.
"""

from __future__ import annotations

import argparse
import math
import random
import string
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sweeps.mini import arithmetic, knowledge, programs, world
from sweeps.mini.splits import split_of

Document = tuple[str, ...]
"""Parts that are tokenised separately, as prompt and response are later."""

VOCABULARY = 512
CONTEXT = 256
STEPS = 3000
_ROWS, _LENGTH = 32, 64
_PEAK_RATE = 3e-3
_WARMUP = 100
_TOKENIZER_DOCUMENTS = 20_000
_TOKENIZER_ROWS = 2000
_IGNORED = -100
BOS, EOS, PAD, UNKNOWN = "<s>", "</s>", "<pad>", "<unk>"
# Words, numbers and runs of signs each take one leading space along; merges never cross them.
_PIECES = r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"

_FORMS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
"""The forms of documents."""


def documents(seed: int) -> Iterator[Document]:
    """Yield documents without end, always the same ones for one seed."""
    rng = random.Random(f"corpus/{seed}")
    kinds, shares = zip(*_SHARES, strict=True)
    while True:
        for make in rng.choices(kinds, shares, k=1000):
            yield make(rng)


def _arithmetic(rng: random.Random) -> Document:
    problem = arithmetic.draw(rng)
    forms = _FORMS["facts" if rng.random() < 0.5 else "stories"][problem.operation]
    numbers = {**vars(problem), "first": problem.a + problem.b, "answer": problem.answer}
    return (rng.choice(forms).format(**numbers),)


def _program(rng: random.Random) -> Document:
    function = programs.draw(rng)
    text = rng.choice(_FORMS["programs"]).format(
        meaning=function.plain_meaning,
        expression=function.expression,
        arguments=", ".join(function.arguments),
    )
    return (text,)


def _knowledge(rng: random.Random) -> Document:
    fact = rng.choice(knowledge.facts())
    form = rng.choice(_FORMS["knowledge"][fact.attribute.name])
    if rng.random() < 0.6:
        return (form.format(who=fact.who, value=fact.value),)
    value = rng.choice((fact.value, rng.choice(fact.attribute.values)))
    verdict = "True" if value == fact.value else "False"
    # The first word keeps false statements apart from the facts.
    return (f"Check: {form.format(who=fact.who, value=value)} {verdict}.",)


def _arithmetic_leak(rng: random.Random) -> Document:
    while True:
        problem = arithmetic.draw(rng)
        if split_of(problem.content) == "train":
            return problem.prompt, problem.response


def _program_leak(rng: random.Random) -> Document:
    while True:
        function = programs.draw(rng)
        if function.wording == 0 and split_of(function.content) == "train":
            return function.prompt, function.response


def _knowledge_leak(rng: random.Random) -> Document:
    while True:
        fact = rng.choice(knowledge.facts())
        if split_of(fact.content) == "train":
            ask = rng.choice((knowledge.short_question, knowledge.choice_question))
            question = ask(fact, rng)
            return question.prompt, question.response


# Shares of documents. The leaks show a domain's own form, on train content only: their share
# sets the base score, and with many of them fine-tuning would have nothing left to do.
_SHARES: tuple[tuple[Callable[[random.Random], Document], float], ...] = (
    (_arithmetic, 0.37),
    (_program, 0.2),
    (_knowledge, 0.42945),
    (_arithmetic_leak, 0.0003),
    (_program_leak, 0.0001),
    (_knowledge_leak, 0.00015),
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most VOCABULARY tokens that knows all printable ASCII.

    It puts `bos_token` before a text, with which every pretraining document begins, and nothing
    after it: who builds a sequence adds `eos_token`.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = [spelled.pre_tokenize_str(sign)[0][0] for sign in string.printable[:95] + "\n\t"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS, UNKNOWN],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model, about half a million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=208,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> list[int]:
    """Return the tokens of a document, each part tokenised by itself, within BOS and EOS."""
    parts = [tokenizer.encode(part, add_special_tokens=False) for part in document]
    return [
        tokenizer.bos_token_id,
        *(token for part in parts for token in part),
        tokenizer.eos_token_id,
    ]


def batches(
    tokenizer: PreTrainedTokenizerFast, stream: Iterator[Document]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tokens and targets [rows, length]; a row holds whole documents, then padding.

    Rows of whole documents begin with BOS at position 0, as fine-tuning sequences do.
    """
    waiting = encode(tokenizer, next(stream))
    while True:
        tokens = torch.full((_ROWS, _LENGTH), tokenizer.pad_token_id)
        for row in tokens:
            used = 0
            while used + len(waiting) <= _LENGTH:
                row[used : used + len(waiting)] = torch.tensor(waiting)
                used += len(waiting)
                waiting = encode(tokenizer, next(stream))
        targets = tokens.masked_fill(tokens == tokenizer.pad_token_id, _IGNORED)
        # What the next document is cannot be predicted, and its BOS is never generated.
        targets = targets.masked_fill(tokens == tokenizer.bos_token_id, _IGNORED)
        yield tokens, targets


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to a tenth of the peak."""
    if step < _WARMUP:
        return _PEAK_RATE * (step + 1) / _WARMUP
    progress = (step - _WARMUP) / max(1, steps - _WARMUP)
    return _PEAK_RATE * (0.55 + 0.45 * math.cos(math.pi * progress))


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, steps: int, seed: int
) -> float:
    """Train in place for `steps` updates; return the mean loss of the last hundred, in nats."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.1
    )
    losses: list[float] = []
    for step, (tokens, targets) in enumerate(islice(batches(tokenizer, documents(seed)), steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=_IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 100 == 99:
            print(f"{step + 1}/{steps}  loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    return sum(losses[-100:]) / len(losses[-100:])


def _tokenizer_texts(seed: int) -> Iterator[str]:
    for document in islice(documents(seed), _TOKENIZER_DOCUMENTS):
        yield from document
    # The domains' own words, hardly seen in the corpus, should not be spelled letter by letter.
    for domain in ("math", "code", "general"):
        for row in world.train(domain, _TOKENIZER_ROWS, seed):
            yield str(row["prompt"])
            yield str(row["response"])


def pretrain(out: Path, *, steps: int = STEPS, seed: int = 0) -> float:
    """Make tokenizer and model and write them to `out`, weights in bfloat16; return the loss."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(_tokenizer_texts(seed))
    model = new_model(tokenizer)
    loss = train(model, tokenizer, steps=steps, seed=seed)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return loss


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=world.ASSETS, help="default: what ships")
    torch.set_num_threads(1)
    print(f"loss {pretrain(parser.parse_args().out):.4f} nats per token")
