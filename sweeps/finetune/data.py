"""Training data: examples tokenised once, and served as micro-batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

from evaluators import files, hub
from evaluators import tokens as token_codec
from evaluators.protocol import is_own
from evaluators.tokens import AddBos, TokenCodec
from sweeps.finetune.chat import check_template
from sweeps.finetune.config import BenchmarkConfig, DataConfig
from sweeps.finetune.example import Example
from sweeps.finetune.examples import DataCounts, read_examples
from sweeps.finetune.identity import content
from sweeps.finetune.loss import MicroBatch, collate
from sweeps.finetune.packing import pack
from sweeps.finetune.rows import RowError
from sweeps.finetune.sources import is_on_hub, source_bytes
from sweeps.finetune.token_store import TokenStore, cached

# Below, reading and tokenising take less than a second or two.
_CACHED_BYTES = 4 * 2**20


@final
@dataclass(frozen=True)
class TrainingData:
    """Tokenised examples: `tokens[i]` and the index `first[i]` of its first target token."""

    tokens: TokenStore
    first: tuple[int, ...]
    lengths: tuple[int, ...]
    counts: DataCounts
    pack_to: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def targets(self, indices: Sequence[int]) -> int:
        """How many tokens of these examples the loss counts."""
        return sum(self.lengths[index] - self.first[index] for index in indices)

    def size(self, indices: Sequence[int]) -> int:
        """How many tokens these examples have, padding not counted."""
        return sum(self.lengths[index] for index in indices)

    def micro_batch(self, indices: Sequence[int]) -> MicroBatch:
        """These examples, packed where asked for, else padded to the longest of them."""
        examples = [(self.tokens[index], self.first[index]) for index in indices]
        if self.pack_to is not None:
            return pack(examples, self.pack_to)
        # Any token will do for padding: nothing attends to it and the loss leaves it out.
        return collate(examples, pad=0)


def load_training_data(
    config: DataConfig,
    tokenizer: Any,
    benchmarks: Sequence[BenchmarkConfig] = (),
    add_bos: AddBos = "auto",
) -> TrainingData:
    """Read and tokenise the rows of `config`; RowError names file and line of a bad one.

    An example is prompt + response + [eos], cut at `max_length`, tokenised as the evaluators do
    it: the prompt begins as the tokenizer begins a text, or as `add_bos` has it. The loss counts
    the response and eos. In the chat template an example is what the template writes. An example
    whose response was cut away entirely is dropped and counted. Large sources are tokenised once
    and kept on disk under their content.
    """
    codec = TokenCodec(tokenizer, add_bos)
    key = _cache_key(config, tokenizer, benchmarks)
    if key is None:
        stored = _tokenised(config, tokenizer, codec, benchmarks)
    else:
        stored = cached(
            (*key, codec.head), lambda: _tokenised(config, tokenizer, codec, benchmarks)
        )
    tokens = TokenStore(stored["ids"], stored["starts"])
    lengths = tuple(tokens.starts.diff().tolist())
    counts, first = DataCounts(**stored["counts"]), tuple(stored["first"])
    pack_to = config.max_length if config.packing else None
    return TrainingData(tokens, first, lengths, counts, pack_to)


def _cache_key(
    config: DataConfig, tokenizer: Any, benchmarks: Sequence[BenchmarkConfig]
) -> tuple[object, ...] | None:
    """What decides the token ids, beside the codec; None where keeping them is not worth it, or
    not safe."""
    if is_on_hub(config.path):
        if not hub.is_commit(config.revision):  # may hold other rows tomorrow
            return None
        rows = config.revision
    elif source_bytes(config.path) < _CACHED_BYTES:
        return None
    else:
        rows = content(config.path)
    read = benchmarks if config.decontaminate is not None else ()
    others = [_items_key(each) for each in read]
    return (config, rows, *others, _tokenizer_digest(tokenizer), _code_digest())


def _items_key(config: BenchmarkConfig) -> tuple[object, ...]:
    """All that decides the items of a benchmark."""
    own = content(config.name) if is_own(config.name) else config.name
    return (own, config.preset, content(config.validation), content(config.test))


def _tokenised(
    config: DataConfig, tokenizer: Any, codec: TokenCodec, benchmarks: Sequence[BenchmarkConfig]
) -> dict[str, Any]:
    if tokenizer.eos_token_id is None:
        raise RowError("the tokenizer has no end-of-sequence token: a response could never end")
    if config.template == "chat":
        check_template(tokenizer)
    examples, counts = read_examples(config, benchmarks, tokenizer)
    rows: list[list[int]] = []
    first: list[int] = []
    truncated = 0
    for example in examples:
        prompt, response = _encoded(example, tokenizer, codec)
        start = len(prompt)
        truncated += start + len(response) > config.max_length
        # Position 0 has nothing before it to be predicted from.
        if 0 < start < config.max_length:
            rows.append([*prompt, *response][: config.max_length])
            first.append(start)
    if not rows:
        raise RowError(
            f"data.path {config.path}: expected an example whose prompt is shorter than "
            f"max_length {config.max_length} tokens, found none in {len(examples)} examples"
        )
    lost = len(examples) - len(rows)
    counts = replace(counts, examples=len(rows), truncated=truncated, no_target=lost)
    store = TokenStore.of(rows)
    return {"ids": store.ids, "starts": store.starts, "first": first, "counts": asdict(counts)}


def _encoded(example: Example, tokenizer: Any, codec: TokenCodec) -> tuple[list[int], list[int]]:
    """The ids of prompt and response, the end of the response among them."""
    if example.in_chat is not None:
        prompt, response = example.in_chat
        return codec.response(prompt), codec.response(response)
    return codec.prompt(example.prompt), [
        *codec.response(example.response),
        tokenizer.eos_token_id,
    ]


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = repr(tokenizer.get_vocab()) if backend is None else backend.to_str()
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template)
    return hashlib.sha256(f"{text}{special}".encode()).hexdigest()


def _code_digest() -> str:
    """Of everything that decides what an example becomes: another release tokenises anew."""
    here = Path(__file__).parent
    names = ("data.py", "chat.py", "decontamination.py", "example.py", "examples.py", "sources.py")
    sources = [*(here / name for name in names), *sorted((here / "training_sets").glob("*.py"))]
    sources += [Path(str(module.__file__)) for module in (files, hub, token_codec)]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()
