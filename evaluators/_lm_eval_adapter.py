"""The adapter behind `lm_eval_backend`; importing this needs lm-eval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evaluators.language_model import LanguageModel
from evaluators.sampling import Sampling, sample_seed
from evaluators.stops import cut_at_stop
from evaluators.text_model import Completion

MOST_TOKENS = 256  # what the harness's own Hugging Face model takes by default


@final
class Harness(TemplateLM):  # type: ignore[misc]
    """Answers the harness's requests with a `LanguageModel`."""

    def __init__(self, lm: LanguageModel, ends: Sequence[str] = ()) -> None:
        super().__init__()
        self._lm, self._ends = lm, ends
        self.tokenizer = lm.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        end: int = self.tokenizer.eos_token_id
        return end

    @property
    def prefix_token_id(self) -> int:
        """The token before a text that has no context."""
        first = self._lm.codec.first_token
        return self.eot_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        """For the chat templates that the harness caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as one prompt."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """The ids of a text, begun as every prompt unless special tokens are refused."""
        if add_special_tokens is False:
            return list(self.tokenizer.encode(string, add_special_tokens=False))
        return self._lm.codec.prompt(string)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> Any:
        """The log-likelihood of whole texts, in windows of the model's context."""
        several = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),  # BOS is scored, as by the harness
                prefix_token=self.prefix_token_id,
                max_seq_len=self._lm.context,
                context_len=1,
            )
            several.append([make_disjoint_window(window) for window in windows])
        scores = iter(self._lm.loglikelihood_ids([pair for each in several for pair in each]))
        return [sum(next(scores).nats for _ in each) for each in several]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The completion of each request, cut before its stop strings."""
        return [completion.text for completion in self.complete(requests)]

    def complete(self, requests: Sequence[Any]) -> list[Completion]:
        """`generate_until`, with the number of tokens of each completion."""
        groups: dict[str, list[Any]] = {}
        for request in requests:
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(request)
        found = {text: iter(self._group(each, json.loads(text))) for text, each in groups.items()}
        return [next(found[json.dumps(each.args[1], sort_keys=True)]) for each in requests]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = self._lm.loglikelihood_ids([self._cut(head, tail) for _, head, tail in requests])
        return [(each.nats, each.is_greedy) for each in found]

    def _cut(self, head: list[int], tail: list[int]) -> tuple[list[int], list[int]]:
        """A pair cut on the left to the model's context, as the harness does: BOS goes, too."""
        room = self._lm.context + 1 - len(tail)
        return (head[-room:], tail) if room > 0 else (head, tail)

    def _group(self, requests: Sequence[Any], options: dict[str, Any]) -> list[Completion]:
        """The completions of requests with equal options."""
        wanted = normalize_gen_kwargs(options, MOST_TOKENS)
        end = self.tokenizer.decode([self.eot_token_id])
        stops = [stop for stop in (*wanted["until"], *self._ends, end) if stop]
        limit = wanted["max_gen_toks"]
        sampling = None
        if wanted["do_sample"] and wanted["temperature"] > 0:
            sampling = Sampling(wanted["temperature"], float(wanted.get("top_p", 1.0)))
        completions = self._lm.generate_ids(
            [self._room(self.tok_encode(each.args[0]), limit) for each in requests],
            max_new_tokens=limit,
            stops=stops,
            sampling=sampling,
            seeds=[] if sampling is None else _seeds(requests),
        )
        return [replace(each, text=self._text(each.ids, stops)) for each in completions]

    def _room(self, ids: list[int], limit: int) -> list[int]:
        """A prompt cut on the left so that `limit` tokens fit after it, as the harness does."""
        return ids[-(self._lm.context - limit) :] if limit < self._lm.context else ids

    def _text(self, ids: Sequence[int], stops: Sequence[str]) -> str:
        """The text as the harness has it: by itself, so SentencePiece drops a leading space."""
        return cut_at_stop(str(self.tokenizer.decode(ids, skip_special_tokens=True)), stops)


def _seeds(requests: Sequence[Any]) -> list[int]:
    """One seed per request, by document; a repeated request is a further sample of it."""
    seen: Counter[str] = Counter()
    seeds = []
    for request in requests:
        place = f"{request.task_name}/{request.doc_id}/{request.idx}"
        seeds.append(sample_seed(place, seen[place]))
        seen[place] += 1
    return seeds
