"""Tokenizers of real families on small vocabularies, each with its family's own rule for BOS."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

SPACE = "\u2581"


@dataclass(frozen=True)
class Family:
    """The class and the special tokens that a folder names; `added` are the tokens that stand
    before a text, `post` the post-processor that puts them there. `pieces`: SentencePiece-like,
    otherwise bytes. `ends`: EOS is appended."""

    name: str
    class_name: str
    bos: str | None
    eos: str
    added: tuple[str, ...] = ()
    pieces: bool = False
    ends: bool = False
    declared: bool | None = None

    def load(self, folder: Path) -> Any:
        """The tokenizer as `AutoTokenizer` reads it from a folder that is written here."""
        folder.mkdir(parents=True, exist_ok=True)
        core = self._pieces() if self.pieces else self._bytes()
        special = [token for token in dict.fromkeys((*self.added, self.bos, self.eos)) if token]
        core.add_special_tokens(special)
        post = processors.TemplateProcessing(
            single=" ".join((*self.added, "$A", *([self.eos] if self.ends else []))),
            special_tokens=[(token, core.token_to_id(token)) for token in special],
        )
        if not self.pieces:  # these keep the byte-level one beside it
            post = processors.Sequence([processors.ByteLevel(trim_offsets=False), post])
        core.post_processor = post
        core.save(str(folder / "tokenizer.json"))
        settings = {
            "tokenizer_class": self.class_name,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "unk_token": "<unk>" if self.pieces else self.eos,
        }
        if self.declared is not None:
            settings["add_bos_token"] = self.declared
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return AutoTokenizer.from_pretrained(folder)

    def _pieces(self) -> Tokenizer:
        signs = [
            "<pad>",
            "<unk>",
            *dict.fromkeys(token for token in (self.bos, self.eos) if token),
        ]
        signs += [SPACE, "\n", *string.ascii_letters, *string.digits, *"+=.,:", f"{SPACE}t"]
        vocabulary = {sign: index for index, sign in enumerate(signs)}
        core = Tokenizer(models.BPE(vocabulary, [(SPACE, "t")], unk_token="<unk>"))
        core.normalizer = normalizers.Sequence(
            [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
        )
        core.decoder = decoders.Sequence(
            [decoders.Replace(SPACE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        return core

    def _bytes(self) -> Tokenizer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE({sign: i for i, sign in enumerate(alphabet)}, []))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        return core


END = "<|endoftext|>"
DEEPSEEK = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
FAMILIES = (
    Family("llama-2", "LlamaTokenizer", "<s>", "</s>", ("<s>",), pieces=True, declared=True),
    Family(
        "llama-3",
        "PreTrainedTokenizerFast",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|begin_of_text|>",),
    ),
    Family("mistral", "LlamaTokenizerFast", "<s>", "</s>", ("<s>",), pieces=True, declared=True),
    Family("qwen-2", "Qwen2Tokenizer", None, END, declared=False),
    Family("gemma", "GemmaTokenizer", "<bos>", "<eos>", ("<bos>",), pieces=True, declared=True),
    Family("gpt-2", "GPT2Tokenizer", END, END),
    Family("gpt-neox", "GPTNeoXTokenizer", END, END, declared=False),
    Family("phi", "CodeGenTokenizer", END, END),
    Family("olmo", "GPTNeoXTokenizerFast", None, END, declared=False),
    Family("deepseek-coder", "LlamaTokenizerFast", *DEEPSEEK, DEEPSEEK[:1], declared=True),
    Family("smollm-2", "GPT2Tokenizer", "<|im_start|>", "<|im_end|>"),
)
# Not causal language models of today, but the rule must hold for what they do.
ENDED = Family("ends", "PreTrainedTokenizerFast", "<s>", "</s>", ("<s>",), ends=True)
ONLY_ENDED = Family("t5", "PreTrainedTokenizerFast", None, "</s>", ends=True)
TWO_AHEAD = Family("glm", "PreTrainedTokenizerFast", None, END, ("[gMASK]", "<sop>"))
