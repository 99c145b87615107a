"""Training data: examples read, checked, tokenised once, and served as micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from evaluators.split import is_validation
from evaluators.tokens import TokenCodec
from sweeps.finetune.config import DataConfig
from sweeps.finetune.formats import Example, reader
from sweeps.finetune.loss import MicroBatch, collate
from sweeps.finetune.rows import RowError, files, read_rows


@dataclass(frozen=True)
class DataCounts:
    """What became of the rows: nothing is skipped, cut or dropped without being counted."""

    examples: int = 0
    bad_rows: int = 0
    held_out: int = 0
    truncated: int = 0
    no_target: int = 0

    def metrics(self) -> dict[str, float]:
        """The counts as `data/<name>`."""
        return {f"data/{name}": float(count) for name, count in vars(self).items()}


@final
@dataclass(frozen=True)
class TrainingData:
    """Tokenised examples: `tokens[i]` and the index `first[i]` of its first target token."""

    tokens: tuple[tuple[int, ...], ...]
    first: tuple[int, ...]
    lengths: tuple[int, ...]
    counts: DataCounts

    def __len__(self) -> int:
        return len(self.tokens)

    def targets(self, indices: Sequence[int]) -> int:
        """How many tokens of these examples the loss counts."""
        return sum(self.lengths[index] - self.first[index] for index in indices)

    def size(self, indices: Sequence[int]) -> int:
        """How many tokens these examples have, padding not counted."""
        return sum(self.lengths[index] for index in indices)

    def micro_batch(self, indices: Sequence[int]) -> MicroBatch:
        """These examples, padded on the right to the longest of them."""
        # Any token will do for padding: nothing attends to it and the loss leaves it out.
        return collate([(self.tokens[index], self.first[index]) for index in indices], pad=0)


def load_training_data(config: DataConfig, tokenizer: Any) -> TrainingData:
    """Read and tokenise the rows of `config`; RowError names file and line of a bad one.

    An example is [bos] + prompt + response + [eos], cut at `max_length`; the loss counts the
    response and eos, and is tokenised as the evaluators do it. An example whose response was
    cut away entirely is dropped and counted.
    """
    examples, bad_rows, held_out = read_examples(config)
    if tokenizer.eos_token_id is None:
        raise RowError("the tokenizer has no end-of-sequence token: a response could never end")
    codec, eos = TokenCodec(tokenizer), tokenizer.eos_token_id
    tokens, first, truncated = [], [], 0
    for example in examples:
        prompt = codec.prompt(example.prompt)
        whole = [*prompt, *codec.response(example.response), eos]
        start = len(prompt)
        truncated += len(whole) > config.max_length
        # Position 0 has nothing before it to be predicted from.
        if 0 < start < config.max_length:
            tokens.append(tuple(whole[: config.max_length]))
            first.append(start)
    if not tokens:
        raise RowError(
            f"data.path {config.path}: expected an example whose prompt is shorter than "
            f"max_length {config.max_length} tokens, found none in {len(examples)} examples"
        )
    lost = len(examples) - len(tokens)
    counts = DataCounts(len(tokens), bad_rows, held_out, truncated, lost)
    return TrainingData(tuple(tokens), tuple(first), tuple(map(len, tokens)), counts)


def read_examples(config: DataConfig) -> tuple[list[Example], int, int]:
    """The examples to train on, the number of bad rows and of examples held out."""
    examples: list[Example] = []
    bad_rows = held_out = 0
    for outcome in _outcomes(config):
        if isinstance(outcome, RowError):
            if config.on_bad_row == "stop":
                raise outcome
            bad_rows += 1
            continue
        for example in outcome:
            if config.part == "train" and is_validation(example.split_text):
                held_out += 1
            else:
                examples.append(example)
    if not examples:
        raise RowError(
            f"data.path {config.path}: expected at least one example of format "
            f"'{config.format}', found {bad_rows} bad rows and {held_out} held out"
        )
    return examples, bad_rows, held_out


def _outcomes(config: DataConfig) -> Iterator[list[Example] | RowError]:
    """Per row, all of its examples or what is wrong with it: never half a row."""
    read = reader(config.format)
    for path in files(config.path):
        for row in read_rows(path):
            if isinstance(row, RowError):
                yield row
                continue
            try:
                yield list(read(row))
            except RowError as error:
                yield error
