"""Greedy generation and log-likelihood on an in-memory Hugging Face model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from evaluators.batching import left_pad, plan_batches
from evaluators.stops import StopFinder, cut_at_stop
from evaluators.tokens import TokenCodec, end_tokens

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

# Bounds the float32 copy of the logits of one log-likelihood batch to half a gibibyte.
_LOGIT_ELEMENTS = 2**27


@dataclass(frozen=True)
class Completion:
    """A generated text, cut before its stop string, and the number of tokens it took.

    `truncated` where neither an end token nor a stop string came within the token limit.
    """

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class LogLikelihood:
    """log p(continuation | context) <= 0 in nats, over `tokens` tokens of the continuation.

    `is_greedy` where every token of the continuation is the most likely one.
    """

    nats: float
    tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class _Window:
    """A sequence [n] of which the last `scored` tokens are to be scored (n > scored)."""

    ids: tuple[int, ...]
    scored: int


@final
class LanguageModel:
    """A causal language model with its tokenizer, ready for evaluation.

    A prompt is preceded by the beginning-of-sequence token, as in training; a continuation is
    tokenised apart from it. Inputs beyond the model's context lose tokens on the left. Results
    do not depend on `batch_tokens`, the padded tokens per forward batch, up to the rounding of
    the model's dtype. Training mode, random state and configuration are left as they were.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 16384,
    ) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, found {batch_tokens}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self._codec = TokenCodec(tokenizer)

    @property
    def context(self) -> int:
        """The longest input the model accepts, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**30)

    def generate(
        self, prompts: Sequence[str], *, max_new_tokens: int, stops: Sequence[str] = ()
    ) -> list[Completion]:
        """The greedy completion of each prompt, in order.

        At most `max_new_tokens` tokens, and at most half of the context: a prompt keeps the
        other half at least.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
        limit = max(1, min(max_new_tokens, self.context // 2))
        rows = [
            self._left_truncated(self._codec.prompt(prompt), self.context - limit)
            for prompt in prompts
        ]
        _require_tokens(rows, "prompt")
        groups = plan_batches(
            [len(row) for row in rows],
            lambda count, longest: count * (longest + limit) <= self.batch_tokens,
        )
        finder = StopFinder(stops, self._codec.text)
        done: dict[int, Completion] = {}
        with self._evaluating():
            for group in groups:
                outputs = self._generate_batch([rows[index] for index in group], limit, finder)
                done.update(
                    (index, self._completion(ids, ended, stops))
                    for index, (ids, ended) in zip(group, outputs, strict=True)
                )
        return [done[index] for index in range(len(rows))]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """The log-likelihood of each continuation after its context, in order.

        A continuation longer than the model's context is scored in parts, each after as much of
        what precedes it as fits, so that none of its tokens is left out.
        """
        windows: list[_Window] = []
        owners: list[int] = []
        for index, (context, continuation) in enumerate(pairs):
            head = self._codec.prompt(context)
            tail = self._codec.response(continuation)
            _require_tokens([head], "context")
            parts = self._windows(head, tail)
            windows += parts
            owners += [index] * len(parts)
        nats = [0.0] * len(pairs)
        tokens = [0] * len(pairs)
        greedy = [True] * len(pairs)
        for owner, window, (value, best) in zip(
            owners, windows, self._score(windows), strict=True
        ):
            nats[owner] += value
            tokens[owner] += window.scored
            greedy[owner] &= best
        return [LogLikelihood(*each) for each in zip(nats, tokens, greedy, strict=True)]

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; modes and random states are put back."""
        training = [module for module in self.model.modules() if module.training]
        device = self.model.device
        devices = [device] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                for module in training:
                    module.training = False
                yield
        finally:
            for module in training:
                module.training = True  # train() would also switch on frozen submodules

    def _left_truncated(self, ids: list[int], room: int) -> list[int]:
        """`ids` cut on the left to `room` tokens; the beginning-of-sequence token stays."""
        if len(ids) <= room:
            return ids
        bos = self.tokenizer.bos_token_id
        # Models lean on the first token of a sequence, so it is worth one place.
        if ids[0] == bos and room > 1:
            return [bos, *ids[len(ids) - room + 1 :]]
        return ids[len(ids) - room :]

    def _windows(self, head: list[int], tail: list[int]) -> list[_Window]:
        """`head + tail` as windows that together score every token of `tail` once."""
        size = max(1, len(tail) if len(tail) < self.context else self.context // 2)
        windows = []
        for start in range(0, len(tail), size):
            part = tail[start : start + size]
            before = self._left_truncated(head + tail[:start], self.context + 1 - len(part))
            windows.append(_Window((*before, *part), len(part)))
        return windows

    def _score(self, windows: Sequence[_Window]) -> list[tuple[float, bool]]:
        """Log-likelihood in nats and greediness of the scored tokens of each window."""
        # Continuations that differ in their last token only (" A" ... " D") share a forward.
        alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, window in enumerate(windows):
            alike.setdefault((window.ids[:-1], window.scored), []).append(index)
        inputs = list(alike)
        widest = max((window.scored for window in windows), default=0)
        vocabulary = self.model.config.get_text_config().vocab_size
        groups = plan_batches(
            [len(ids) for ids, _ in inputs],
            lambda count, longest: (
                count * longest <= self.batch_tokens
                and count * widest * vocabulary <= _LOGIT_ELEMENTS
            ),
        )
        scores: dict[int, tuple[float, bool]] = {}
        with self._evaluating():
            for group in groups:
                logits = self._last_logits([inputs[number] for number in group])
                for row, number in zip(logits, group, strict=True):
                    members = alike[inputs[number]]
                    targets = [windows[member].ids for member in members]
                    scores.update(
                        zip(members, _gather(row, targets, inputs[number][1]), strict=True)
                    )
        return [scores[index] for index in range(len(windows))]

    def _last_logits(self, inputs: Sequence[tuple[tuple[int, ...], int]]) -> Tensor:
        """Logits [rows, widest, vocabulary] of the last positions only.

        Left padding puts every scored position at the end, so the output projection is never
        computed for the context (30 GB at 100 x 600 x 128k in float32).
        """
        widest = max(scored for _, scored in inputs)
        ids, mask, positions = left_pad([row for row, _ in inputs], 0, self.model.device)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=widest,
        )
        logits: Tensor = output.logits[:, -widest:]
        return logits

    def _generate_batch(
        self, rows: Sequence[Sequence[int]], limit: int, finder: StopFinder
    ) -> list[tuple[list[int], bool]]:
        """Generated ids of each row, and whether it ended by itself."""
        ends = end_tokens(self.tokenizer, getattr(self.model, "generation_config", None))
        ids, mask, positions = left_pad(rows, 0, self.model.device)
        longest = ids.shape[1]
        mask = torch.nn.functional.pad(mask, (0, limit), value=1)
        outputs: list[list[int]] = [[] for _ in rows]
        ended = [False] * len(rows)
        alive = list(range(len(rows)))  # which row each line of the batch belongs to
        cache = self._new_cache()
        for step in range(limit):
            logits = self.model(
                input_ids=ids,
                attention_mask=mask[:, : longest + step],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            newest = logits[:, -1].argmax(dim=-1)
            for row, token in zip(alive, newest.tolist(), strict=True):
                if not ended[row]:
                    outputs[row].append(token)
                    ended[row] = token in ends or finder(outputs[row])
            going = [line for line, row in enumerate(alive) if not ended[row]]
            if not going:
                break
            # Dropping lines copies the cache: worth it once a quarter of them is idle.
            if 4 * len(going) <= 3 * len(alive):
                keep = torch.tensor(going, device=newest.device)
                cache.batch_select_indices(keep)
                mask, positions, newest = mask[keep], positions[keep], newest[keep]
                alive = [alive[line] for line in going]
            ids, positions = newest[:, None], positions[:, -1:] + 1
        return list(zip(outputs, ended, strict=True))

    def _new_cache(self) -> Cache:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _completion(self, ids: list[int], ended: bool, stops: Sequence[str]) -> Completion:
        text = cut_at_stop(self._codec.text(ids), stops)
        return Completion(text, len(ids), not ended)


def _gather(
    logits: Tensor, sequences: Sequence[tuple[int, ...]], scored: int
) -> list[tuple[float, bool]]:
    """For each sequence, the summed log-probability of its last `scored` tokens in nats.

    `logits` [widest, vocabulary] predict the last `widest` tokens; the sequences share all but
    their last token.
    """
    log_probabilities = logits[-scored:].float().log_softmax(dim=-1)
    best = log_probabilities.argmax(dim=-1)
    targets = torch.tensor([ids[-scored:] for ids in sequences], device=logits.device)
    chosen = log_probabilities.gather(1, targets.T).double().sum(dim=0)
    greedy = (targets == best).all(dim=1)
    return list(zip(chosen.tolist(), greedy.tolist(), strict=True))


def _require_tokens(rows: Sequence[Sequence[int]], what: str) -> None:
    """Raise where a row is empty: without a first token there is nothing to continue."""
    if not all(rows):
        raise ValueError(f"An empty {what} needs a tokenizer with a beginning-of-sequence token")
