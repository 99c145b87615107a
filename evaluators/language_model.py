"""Generation and log-likelihood by a Hugging Face model in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, final

import torch

from evaluators.batching import TokenBudget
from evaluators.exactness import PLAIN_PATHS, Paths, exact_paths, steady_positions
from evaluators.forward import Forward
from evaluators.generation import Choose, Decoding, Generator, most_likely
from evaluators.likelihood import Scorer, Window
from evaluators.sampler import Sampler
from evaluators.sampling import Sampling, check_seeds
from evaluators.stops import StopFinder, cut_at_stop
from evaluators.text_model import Completion, LogLikelihood, TextModel
from evaluators.tokens import AddBos, TokenCodec, end_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IdPair = tuple[Sequence[int], Sequence[int]]


@final
class LanguageModel(TextModel):
    """A causal language model with its tokenizer, ready for evaluation.

    A continuation is tokenized separately from its prompt. Inputs beyond the model's context lose
    tokens on the left. Results do not depend on batch sizes, up to the rounding of the model's
    dtype. A batch that does not fit into memory is halved. Training mode, random state and
    configuration stay as they were. The first use compares the fast paths with plain forwards,
    and raises InexactModelError if none is exact.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_tokens: int = 16384,
        batch_size: int | None = None,
        add_bos: AddBos = "auto",
        computes_in: torch.dtype | None = None,
    ) -> None:
        """Wrap a model that is in memory.

        Args:
            model: from transformers, on any device.
            tokenizer: the model's.
            batch_tokens: the most padded tokens of a forward batch.
            batch_size: the most sequences of a forward batch; None: no limit.
            add_bos: whether prompts begin with BOS; "auto": as the tokenizer begins a text.
            computes_in: the dtype of matrix products if training uses autocast.

        Raises:
            ValueError: a number is below 1.
        """
        for name, value in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        self.model = model
        self.tokenizer = tokenizer
        self.codec = TokenCodec(tokenizer, add_bos)
        self.forward = Forward(model, computes_in)
        self._exact: Paths | None = None
        self._budget = TokenBudget(batch_tokens)
        self._batch_size = batch_size

    @property
    def add_bos(self) -> bool | None:
        """See `TextModel`."""
        return self.codec.add_bos

    @property
    def context(self) -> int:
        """The longest input the model accepts, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**30)

    @property
    def batch_tokens(self) -> int:
        """The padded tokens per batch: less than asked for where memory ran out."""
        return self._budget.tokens

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
    ) -> list[Completion]:
        """The completion of each prompt, in order; see `TextModel`.

        At most half of the context is generated: a prompt keeps the other half at least.
        """
        rows = [self.codec.prompt(prompt) for prompt in prompts]
        limit = min(max_new_tokens, max(1, self.context // 2))
        return self.generate_ids(
            rows, max_new_tokens=limit, stops=stops, sampling=sampling, seeds=seeds
        )

    def generate_ids(
        self,
        rows: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
    ) -> list[Completion]:
        """`generate` for prompts that are token ids already, with up to the whole context."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
        check_seeds(sampling, seeds, len(rows))
        if not rows:  # a rank that has no item of a small benchmark
            return []
        _require_tokens(rows, "prompt")
        limit = min(max_new_tokens, self.context - 1)
        rows = [self._left_truncated(list(row), self.context - limit) for row in rows]
        ends = end_tokens(self.tokenizer, getattr(self.model, "generation_config", None))
        ends |= {id for stop in stops if (id := self.codec.end_token(stop)) is not None}
        finder = StopFinder(stops, self.codec.text)
        choose: Choose = most_likely
        if sampling is not None:
            choose = Sampler(sampling, seeds, limit)
        decoding = Decoding(choose, lambda ids: ids[-1] in ends or finder(ids), limit)
        with self._evaluating():
            paths = self._paths(max(map(len, rows)) + limit)
            generator = Generator(self.forward, self._budget, self._batch_size, paths.cached)
            outputs = generator.run(rows, paths.clusters(rows), decoding)
        return [self._completion(ids, ended, stops, ends) for ids, ended in outputs]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """The log-likelihood of each continuation after its context, in order.

        A continuation longer than the model's context is scored in parts, each after as much of
        what precedes it as fits, so that none of its tokens is left out.
        """
        return self.loglikelihood_ids(
            [(self.codec.prompt(head), self.codec.response(tail)) for head, tail in pairs]
        )

    def loglikelihood_ids(self, pairs: Sequence[IdPair]) -> list[LogLikelihood]:
        """`loglikelihood` for contexts and continuations that are token ids already."""
        _require_tokens([head for head, _ in pairs], "context")
        windows = [self._windows(list(head), list(tail)) for head, tail in pairs]
        scores = iter(self._score([window for parts in windows for window in parts]))
        found = []
        for parts in windows:
            several = [next(scores) for _ in parts]
            nats = sum((nats for nats, _ in several), start=0.0)
            count = sum(window.scored for window in parts)
            found.append(LogLikelihood(nats, count, all(greedy for _, greedy in several)))
        return found

    def together(self) -> AbstractContextManager[None]:
        """Keeps ranks that hold shards of the model in step; see `Forward`."""
        return self.forward.together()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Evaluation mode without gradients; modes and random states are put back."""
        training = [module for module in self.model.modules() if module.training]
        device, computes_in = self.model.device, self.forward.computes_in
        devices = [device] if device.type == "cuda" else []
        # Entered once, since autocast keeps the weights it has cast until it is left.
        mixed = torch.autocast(device.type, computes_in, enabled=computes_in is not None)
        random = torch.random.fork_rng(devices=devices)
        try:
            with random, torch.no_grad(), mixed, self.forward.together():
                for module in training:
                    module.training = False
                yield
        finally:
            for module in training:
                module.training = True  # train() would also switch on frozen submodules

    def _left_truncated(self, ids: list[int], room: int) -> list[int]:
        """`ids` cut on the left to `room` tokens; what begins every prompt (BOS) stays."""
        if len(ids) <= room:
            return ids
        # Models lean on the first token of a sequence, so it is worth its place.
        head = list(self.codec.head)
        if ids[: len(head)] != head or room <= len(head):
            head = []
        return [*head, *ids[len(ids) - room + len(head) :]]

    def _windows(self, head: list[int], tail: list[int]) -> list[Window]:
        """`head + tail` as windows that together score every token of `tail` once."""
        size = max(1, len(tail) if len(tail) < self.context else self.context // 2)
        windows = []
        for start in range(0, len(tail), size):
            part = tail[start : start + size]
            before = self._left_truncated(head + tail[:start], self.context + 1 - len(part))
            windows.append(Window((*before, *part), len(part)))
        return windows

    def _score(self, windows: Sequence[Window]) -> list[tuple[float, bool]]:
        """Log-likelihood in nats and greediness of the scored tokens of each window."""
        if not windows:
            return []
        # Continuations that differ in their last token only (" A" ... " D") share a forward.
        alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
        for index, window in enumerate(windows):
            alike.setdefault((window.input, window.scored), []).append(index)
        inputs = [[windows[index] for index in group] for group in alike.values()]
        with self._evaluating():
            paths = self._paths(max(len(ids) for ids, _ in alike))
            scorer = Scorer(self.forward, self._budget, self._batch_size, paths.shared)
            # Only what comes before the first scored position can be shared.
            ends = [len(ids) - scored + 1 if paths.shared else len(ids) for ids, scored in alike]
            rows = [ids[:end] for (ids, _), end in zip(alike, ends, strict=True)]
            found = scorer.run(inputs, paths.clusters(rows))
        scores = {
            index: score
            for group, several in zip(alike.values(), found, strict=True)
            for index, score in zip(group, several, strict=True)
        }
        return [scores[index] for index in range(len(windows))]

    def _paths(self, longest: int) -> Paths:
        """What is exact for this model on rows of at most `longest` tokens."""
        if self._exact is None:
            self._exact = exact_paths(self.forward)
        return self._exact if longest <= steady_positions(self.model.config) else PLAIN_PATHS

    def _completion(
        self, ids: list[int], ended: bool, stops: Sequence[str], ends: frozenset[int]
    ) -> Completion:
        # An added token that ends a turn need not be a special one, which decoding leaves out.
        said = ids[:-1] if ids and ids[-1] in ends else ids
        text = cut_at_stop(self.codec.text(said), stops)
        return Completion(text, len(ids), not ended, tuple(ids))


def _require_tokens(rows: Sequence[Sequence[int]], what: str) -> None:
    """Raise where a row is empty: without a first token there is nothing to continue."""
    if not all(rows):
        raise ValueError(
            f"An empty {what} needs a tokenizer with a beginning-of-sequence or an "
            f"end-of-sequence token"
        )
