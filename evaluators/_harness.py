"""The adapter behind `lm_eval_backend`; importing this needs lm-eval."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, final

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evaluators.language_model import LanguageModel
from evaluators.sampling import Sampling, sample_seed

MOST_TOKENS = 256  # what the harness's own Hugging Face model takes by default


@final
class Harness(TemplateLM):  # type: ignore[misc]
    """Answers the harness's requests with a `LanguageModel`."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self._lm = lm
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
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._lm.context,
                context_len=1,
            )
            several.append([make_disjoint_window(window) for window in windows])
        scores = iter(self._lm.loglikelihood_ids([pair for each in several for pair in each]))
        return [sum(next(scores).nats for _ in each) for each in several]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The completion of each request, cut before its stop strings."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts: dict[int, str] = {}
        for text, members in groups.items():
            prompts = [requests[index].args[0] for index in members]
            texts.update(zip(members, self._group(prompts, json.loads(text)), strict=True))
        return [texts[index] for index in range(len(requests))]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = self._lm.loglikelihood_ids([(head, tail) for _, head, tail in requests])
        return [(each.nats, each.is_greedy) for each in found]

    def _group(self, prompts: Sequence[str], options: dict[str, Any]) -> list[str]:
        """The completions of prompts with equal options."""
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        end = self.tokenizer.decode([self.eot_token_id])
        temperature = float(options.get("temperature") or 0.0)
        sampling, seeds = None, []
        if options.get("do_sample", temperature > 0) and temperature > 0:
            sampling = Sampling(temperature, float(options.get("top_p", 1.0)))
            seen: Counter[str] = Counter()
            for prompt in prompts:  # repeated prompts are further samples
                seeds.append(sample_seed(prompt, seen[prompt]))
                seen[prompt] += 1
        completions = self._lm.generate_ids(
            [self.tok_encode(prompt) for prompt in prompts],
            max_new_tokens=int(options.get("max_gen_toks") or MOST_TOKENS),
            stops=[stop for stop in (*stops, end) if stop],
            sampling=sampling,
            seeds=seeds,
        )
        return [completion.text for completion in completions]
