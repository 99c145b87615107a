"""Pretrain the embedded model: `python -m sweeps.mini.pretrain` writes what ships in assets/.

Seeded: the same arguments, library versions and thread count give the same weights.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sweeps.mini import arithmetic, knowledge, programs
from sweeps.mini.corpus import Document, documents
from sweeps.mini.tokenizer import CONTEXT, train_tokenizer
from sweeps.mini.world import ASSETS

STEPS = 3000
_ROWS, _LENGTH = 32, 64
_PEAK_RATE = 3e-3
_WARMUP = 100
_TOKENIZER_DOCUMENTS = 20_000
_TOKENIZER_ROWS = 2000
_IGNORED = -100


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
    started = time.monotonic()
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
        if (step + 1) % 100 == 0 or step + 1 == steps:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (steps - step - 1)
            mean = sum(losses[-100:]) / len(losses[-100:])
            print(
                f"{step + 1}/{steps}  loss {mean:.4f}  {spent:.0f} s  {left:.0f} s left",
                flush=True,
            )
    return sum(losses[-100:]) / max(1, len(losses[-100:]))


def _tokenizer_texts(seed: int) -> Iterator[str]:
    for document in islice(documents(seed), _TOKENIZER_DOCUMENTS):
        yield from document
    # The domains' own words, hardly seen in the corpus, should not be spelled letter by letter.
    for rows in (arithmetic.train, programs.train, knowledge.train):
        for row in rows(_TOKENIZER_ROWS, seed):
            yield str(row["prompt"])
            yield str(row["response"])


def pretrain(out: Path, *, steps: int = STEPS, seed: int = 0) -> float:
    """Make tokenizer and model and write them to `out`, weights in bfloat16; return the loss."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(_tokenizer_texts(seed))
    model = new_model(tokenizer)
    loss = train(model, tokenizer, steps=steps, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    return loss


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.mini.pretrain", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ASSETS, help="folder to write (default: shipped)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"updates (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    loss = pretrain(options.out, steps=options.steps, seed=options.seed)
    print(f"wrote {options.out}, loss {loss:.4f} nats per token")


if __name__ == "__main__":
    main()
