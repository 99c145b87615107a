"""vLLM on a checkpoint folder, for GPUs. Needs the optional extra `vllm`, in its own environment.

vLLM pins torch exactly and takes over the devices that it sees, so it runs in a process of its
own: a Ray actor, or a script. It cannot use a model in memory; save the model first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from evaluators.sampling import Sampling, check_seeds
from evaluators.text_model import Completion, LogLikelihood, TextModel
from evaluators.tokens import AddBos, TokenCodec


class MissingVllm(ValueError):
    """vLLM is not installed."""


@final
class VllmModel(TextModel):
    """A checkpoint folder, served by vLLM's offline engine.

    Prompts and continuations become the same ids as in `LanguageModel`. Scores agree with it up
    to the rounding of other kernels; samples differ, since vLLM has its own random numbers.
    """

    def __init__(
        self, folder: Path, *, seed: int = 0, add_bos: AddBos = "auto", **options: Any
    ) -> None:
        """Start the engine.

        Args:
            folder: a saved model with its tokenizer.
            seed: of the engine.
            add_bos: as in `LanguageModel`.
            options: of `vllm.LLM`: dtype, max_model_len, gpu_memory_utilization, ...

        Raises:
            MissingVllm: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise MissingVllm("vLLM is not installed: install the extra with gmt-sweep[vllm]")
        import vllm

        self._parameters: Any = vllm.SamplingParams
        self._engine = vllm.LLM(
            model=str(folder), seed=seed, enable_prefix_caching=True, **options
        )
        self.tokenizer = self._engine.get_tokenizer()
        self._codec = TokenCodec(self.tokenizer, add_bos)

    @property
    def add_bos(self) -> bool | None:
        """See `TextModel`."""
        return self._codec.add_bos

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        sampling: Sampling | None = None,
        seeds: Sequence[int] = (),
    ) -> list[Completion]:
        """The completion of each prompt, in order; see `TextModel`."""
        check_seeds(sampling, seeds, len(prompts))
        ends = [id for stop in stops if (id := self._codec.end_token(stop)) is not None]
        parameters = [
            self._parameters(
                max_tokens=max_new_tokens,
                stop=list(stops),
                stop_token_ids=ends,
                temperature=0.0 if sampling is None else sampling.temperature,
                top_p=1.0 if sampling is None else sampling.top_p,
                seed=None if sampling is None else seeds[index] % 2**31,
            )
            for index in range(len(prompts))
        ]
        outputs = self._run([self._codec.prompt(prompt) for prompt in prompts], parameters)
        return [
            Completion(best.text, len(best.token_ids), best.finish_reason == "length")
            for best in (output.outputs[0] for output in outputs)
        ]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[LogLikelihood]:
        """The log-likelihood of each continuation after its context, in order."""
        tails = [self._codec.response(tail) for _, tail in pairs]
        rows = [
            self._codec.prompt(head) + tail for (head, _), tail in zip(pairs, tails, strict=True)
        ]
        # One token must be generated; the log-probabilities of the input come along.
        wanted = self._parameters(max_tokens=1, temperature=0.0, prompt_logprobs=1)
        outputs = self._run(rows, [wanted] * len(rows))
        return [
            _scored(output.prompt_logprobs, row, len(tail))
            for output, row, tail in zip(outputs, rows, tails, strict=True)
        ]

    def _run(self, rows: Sequence[list[int]], parameters: Sequence[Any]) -> list[Any]:
        prompts = [{"prompt_token_ids": row} for row in rows]
        outputs: list[Any] = self._engine.generate(prompts, list(parameters), use_tqdm=False)
        return outputs


def _scored(logprobs: Sequence[Any], row: Sequence[int], scored: int) -> LogLikelihood:
    """The sum over the last `scored` ids of `row`; `logprobs[i]` maps ids to those of place i."""
    nats, greedy = 0.0, True
    for place in range(len(row) - scored, len(row)):
        found = logprobs[place][row[place]]
        nats += found.logprob
        greedy &= found.rank == 1
    return LogLikelihood(nats, scored, greedy)
