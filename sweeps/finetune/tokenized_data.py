"""Training data: examples tokenised once into flat tensors, served as micro-batches.

The tensors are in memory, or memory-mapped from a cache file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from evaluators import files, hub, prompt_formats
from evaluators import tokens as token_codec
from evaluators.benchmarks import gsm8k, mbpp
from evaluators.prompt_formats import special_tokens, turn_end
from evaluators.protocol import is_own
from evaluators.tokens import AddBos, TokenCodec
from sweeps.finetune.data_config import DataConfig
from sweeps.finetune.example import RowError, Text
from sweeps.finetune.example_selection import DataCounts, by_source, read_examples
from sweeps.finetune.finetune_config import BenchmarkConfig
from sweeps.finetune.loss import MicroBatch, collate
from sweeps.finetune.order import DataOrder, Share
from sweeps.finetune.row_sources import is_on_hub, source_bytes
from sweeps.finetune.run_identity import content

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class RaggedRows:
    """Rows of unequal length: row i of `values` [n, ...] int32 is values[starts[i]:starts[i + 1]].

    A row of token ids has shape [tokens], one of spans [spans, 2].
    """

    values: Tensor
    starts: Tensor

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any]]) -> Self:
        """Store these rows; a number takes four bytes instead of a Python object."""
        parts = [torch.tensor(row, dtype=torch.int32) for row in rows]
        sizes = torch.tensor([0, *(len(part) for part in parts)])
        return cls(
            torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int32), sizes.cumsum(0)
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if index >= len(self):
            raise IndexError(index)
        start, end = self.starts[index : index + 2].tolist()
        return tuple(self.values[start:end].tolist())


def cached(key: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `make` (tensors and plain values), cached on disk under a digest of `key`.

    Tensors are memory-mapped from the file, so the processes of a node share them.
    """
    place = _folder() / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.pt"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        # Several workers may do this at once: each renames a complete file with equal content.
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as stream:
            torch.save(make(), stream)
        Path(stream.name).replace(place)
    found: dict[str, Any] = torch.load(place, mmap=True, weights_only=True)
    return found


def _folder() -> Path:
    """Beside the cache of `datasets`, wherever the environment puts it."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    chosen = os.environ.get("HF_DATASETS_CACHE") or Path(home) / "datasets"
    return Path(chosen).expanduser() / "gmt_sweep_tokens"


Ragged = RaggedRows | ConcatDataset[Any]
"""The rows of one source, or of several one after another."""

# Smaller sources are read and tokenised in a second or two.
_CACHED_BYTES = 4 * 2**20


@final
@dataclass(frozen=True)
class TrainingData:
    """Tokenised examples: the ids `tokens[i]` and their target `spans[i]` (see `Tokens`).

    `ends`: the tokens that end a response. `mixture`: the weighted sources, whose examples follow
    one another.
    """

    tokens: Ragged
    spans: Ragged
    lengths: tuple[int, ...]
    counts: DataCounts
    ends: tuple[int, ...]
    pack_to: int | None = None
    mixture: tuple[Share, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def order(self, seed: int) -> DataOrder:
        """The order in which a run of this seed sees the examples."""
        return DataOrder(len(self), seed, self.mixture)

    def targets(self, indices: Sequence[int]) -> int:
        """The number of tokens of these examples that the loss counts."""
        return sum(end - start for index in indices for start, end in self.spans[index])

    def size(self, indices: Sequence[int]) -> int:
        """The number of tokens of these examples, without padding."""
        return sum(self.lengths[index] for index in indices)

    def micro_batch(self, rows: Sequence[Sequence[int]], *, unpadded: bool = False) -> MicroBatch:
        """Rows of these examples, padded to the longest row, or all in one row, `unpadded`."""
        examples = [[(self.tokens[i], self.spans[i]) for i in row] for row in rows]
        return collate(examples, unpadded=unpadded)


def load_training_data(
    config: DataConfig,
    tokenizer: Any,
    benchmarks: Sequence[BenchmarkConfig] = (),
    add_bos: AddBos = "auto",
) -> TrainingData:
    """Read and tokenise the rows of `config`; RowError names file and line of a bad one.

    An example is prompt + response + [eos] or a conversation of them, cut at `max_length`. It is
    tokenised as in the evaluators: the prompt begins as the tokenizer begins a text, or as
    `add_bos` says. The loss counts the responses and eos. With the chat template, the template
    writes the example. Examples whose responses were all cut off are dropped and counted. Large
    sources are tokenised once and cached on disk, keyed by their content.
    """
    codec = TokenCodec(tokenizer, add_bos)
    found = by_source(config, lambda part: _stored(part, tokenizer, codec, benchmarks))
    tokens = [RaggedRows(*each["tokens"]) for each in found.values()]
    spans = [RaggedRows(*each["spans"]) for each in found.values()]
    counts = {name: DataCounts(**each["counts"]) for name, each in found.items()}
    for name, each in counts.items():
        if name:
            _LOG.info("data.sources.%s: %s", name, each.numbers())
    return TrainingData(
        tokens=_joined(tokens),
        spans=_joined(spans),
        lengths=tuple(length for rows in tokens for length in rows.starts.diff().tolist()),
        counts=DataCounts.of(counts),
        ends=tuple(sorted({end for each in found.values() for end in each["ends"]})),
        pack_to=config.max_length if config.packing else None,
        mixture=tuple(_shares(config, counts)),
    )


def _joined(rows: list[RaggedRows]) -> Ragged:
    return rows[0] if len(rows) == 1 else ConcatDataset[Any](rows)  # type: ignore[arg-type]


def _shares(config: DataConfig, counts: Mapping[str, DataCounts]) -> Iterator[Share]:
    """How many examples an epoch takes of each source: as many in all as there are examples."""
    total, weights = sum(each.examples for each in counts.values()), config.weights()
    parts = [weight / sum(weights) for weight in weights]
    bounds = [round(total * part) for part in accumulate(parts, initial=0.0)]
    for (name, each), (start, end) in zip(counts.items(), pairwise(bounds), strict=False):
        if start == end:
            raise RowError(
                f"data.sources.{name}.weight: expected at least one of the {total} examples of "
                f"an epoch, got {end - start}"
            )
        yield Share(each.examples, end - start)


def _stored(
    config: DataConfig, tokenizer: Any, codec: TokenCodec, benchmarks: Sequence[BenchmarkConfig]
) -> dict[str, Any]:
    """The tokenised examples of one source, from the cache if they are in it."""
    key = _cache_key(config, tokenizer, benchmarks)

    def make() -> dict[str, Any]:
        return _tokenised(config, tokenizer, codec, benchmarks)

    return make() if key is None else cached((*key, codec.head), make)


def _cache_key(
    config: DataConfig, tokenizer: Any, benchmarks: Sequence[BenchmarkConfig]
) -> tuple[object, ...] | None:
    """What determines the token ids, besides the codec; None if caching is useless or unsafe."""
    if is_on_hub(config.path):
        if not hub.is_commit(config.revision):  # its rows may change
            return None
        rows = config.revision
    elif source_bytes(config.path) < _CACHED_BYTES:
        return None
    else:
        rows = content(config.path)
    read = benchmarks if config.decontaminate is not None else ()
    others = [_items_key(each) for each in read]
    settings = config.model_dump_json()
    return (settings, rows, *others, _tokenizer_digest(tokenizer), _code_digest())


def _items_key(config: BenchmarkConfig) -> tuple[object, ...]:
    """Everything that determines the items of a benchmark."""
    own = content(config.name) if is_own(config.name) else config.name
    paths = (content(config.validation), content(config.test))
    return (own, config.preset, config.changes(), *paths)


def _tokenised(
    config: DataConfig, tokenizer: Any, codec: TokenCodec, benchmarks: Sequence[BenchmarkConfig]
) -> dict[str, Any]:
    if tokenizer.eos_token_id is None:
        raise RowError("the tokenizer has no end-of-sequence token: a response could never end")
    examples, counts = read_examples(config, benchmarks, tokenizer)
    texts = [text for example in examples for text in example.texts]
    begin = codec.prompt if config.template == "own" else codec.response
    special = special_tokens(tokenizer)
    rows: list[list[int]] = []
    spans: list[Spans] = []
    ends: set[str] = set()
    truncated = 0
    for text in texts:
        ids, learned = _encoded(text, begin, codec, tokenizer.eos_token_id)
        ends.update(_ends(text, tokenizer.eos_token, special))
        truncated += len(ids) > config.max_length
        # Position 0 has no context to predict it from.
        cut = [(max(start, 1), min(end, config.max_length)) for start, end in learned]
        kept = [(start, end) for start, end in cut if start < end]
        if kept:
            rows.append(ids[: kept[-1][1]])
            spans.append(kept)
    if not rows:
        raise RowError(
            f"data.path {config.path}: expected an example whose prompt is shorter than "
            f"max_length {config.max_length} tokens, found none in {len(texts)} examples"
        )
    lost = len(texts) - len(rows)
    counts = replace(counts, examples=len(rows), truncated=truncated, no_target=lost)
    stored = {"tokens": RaggedRows.of(rows), "spans": RaggedRows.of(spans)}
    parts = {name: (each.values, each.starts) for name, each in stored.items()}
    return {**parts, "ends": sorted(special[end] for end in ends), "counts": asdict(counts)}


Spans = list[tuple[int, int]]


def _encoded(
    text: Text, begin: Callable[[str], list[int]], codec: TokenCodec, eos: int
) -> tuple[list[int], Spans]:
    """The token ids of a text that starts by `begin`, and the spans of its learned parts."""
    ids: list[int] = []
    spans: Spans = []
    for part in text:
        start = len(ids)
        ids += (codec.response if ids else begin)(part.text)
        ids += [eos] * part.ends
        if part.is_learned:
            spans.append((start, len(ids)))
    return ids, spans


def _ends(text: Text, eos: str, special: Iterable[str]) -> set[str]:
    """The tokens that end its responses."""
    return {eos if part.ends else turn_end(part.text, special) for part in text if part.is_learned}


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(tokenizer.get_vocab()) if backend is None else backend.to_str()
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template)
    return hashlib.sha256(f"{text}{special}".encode()).hexdigest()


def _code_digest() -> str:
    """A digest of the code that builds examples: another release tokenises again."""
    here = Path(__file__).parent
    names = (
        "tokenized_data",
        "columns",
        "example",
        "example_selection",
        "row_sources",
        "conversation",
        "training_sets",
        "chat_template",
    )
    sources = [here / f"{name}.py" for name in names]
    modules = (files, gsm8k, hub, mbpp, prompt_formats, token_codec)
    sources += [Path(str(module.__file__)) for module in modules]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
