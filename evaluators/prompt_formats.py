"""How a question is put to a model: as plain text, in a named format, or by its chat template.

The texts of the formats are here for training and evaluation alike. Sources: Tulu, open-instruct
(Wang et al. 2023, arXiv 2306.04751); ChatML (OpenAI); Alpaca (Taori et al. 2023); MetaMath (Yu et
al. 2023, arXiv 2309.12284); Magicoder (Wei et al. 2023, arXiv 2312.02120).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

PromptFormat = Literal["raw", "chat", "tulu", "chatml", "alpaca", "metamath", "magicoder"]
PROMPT_FORMATS: tuple[str, ...] = get_args(PromptFormat)
Messages = Sequence[Mapping[str, str]]
"""Turns {"role", "content"}: system, user and assistant."""

_TASK = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
_PAIRED = _TASK.replace(".", ", paired with an input that provides further context.", 1)
METAMATH = f"{_TASK}### Instruction:\n{{}}\n\n### Response: Let's think step by step."
MAGICODER = (
    "You are an exceptionally intelligent coding assistant that consistently delivers accurate "
    "and reliable responses to user instructions.\n\n"
    "@@ Instruction\n{}\n\n@@ Response\n"
)


@dataclass(frozen=True)
class _Texts:
    """A user's turn up to the answer, what ends an answer, and a system prompt; {} is the text.

    An answer also ends with the tokenizer's end of sequence, unless `end` begins with a token of
    its own.
    """

    user: str
    system: str = "{}\n\n"
    end: str = ""
    after: str = "\n"


_TEXTS: Mapping[str, _Texts] = MappingProxyType(
    {
        "tulu": _Texts("<|user|>\n{}\n<|assistant|>\n", "<|system|>\n{}\n"),
        "chatml": _Texts(
            "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
            "<|im_start|>system\n{}<|im_end|>\n",
            "<|im_end|>",
        ),
        "alpaca": _Texts(f"{_TASK}### Instruction:\n{{}}\n\n### Response:\n", after="\n\n"),
        "metamath": _Texts(METAMATH, after="\n\n"),
        "magicoder": _Texts(MAGICODER, after="\n\n"),
    }
)


def alpaca(instruction: str, given: str = "") -> str:
    """Alpaca's prompt, with the input `given` to the instruction if there is one."""
    if not given:
        return _TEXTS["alpaca"].user.replace("{}", instruction)
    return f"{_PAIRED}### Instruction:\n{instruction}\n\n### Input:\n{given}\n\n### Response:\n"


def written(name: str, tokenizer: Any, messages: Messages) -> str:
    """The prompt for the next answer, or for the rest of the last one, in the format `name`.

    Raises ValueError where the tokenizer has no chat template, or that rejects the messages.
    """
    if name == "chat":
        return _by_template(tokenizer, messages)
    texts = _TEXTS[name]
    end = texts.end or getattr(tokenizer, "eos_token", None) or ""
    around = {"user": texts.user, "system": texts.system, "assistant": f"{{}}{end}{texts.after}"}
    parts = [around[each["role"]].replace("{}", each["content"]) for each in messages]
    if messages[-1]["role"] == "assistant":
        parts[-1] = messages[-1]["content"]
    return "".join(parts)


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The ids of the special and the added tokens."""
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def turn_end(text: str, special: Iterable[str]) -> str:
    """The one of these tokens that ends a turn, white space aside; "" without one."""
    text = text.rstrip()
    return max((each for each in special if text.endswith(each)), key=len, default="")


def turn_ends(name: str, tokenizer: Any) -> tuple[str, ...]:
    """What a model writes after an answer in the format `name`, besides its end of sequence."""
    if name != "chat":
        return (_TEXTS[name].end,) if name in _TEXTS and _TEXTS[name].end else ()
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    after = _applied(tokenizer, turns).rpartition(answer)[2].strip()
    after = after.removesuffix(tokenizer.eos_token or "") or after  # some end the text with it
    end = turn_end(after, special_tokens(tokenizer)) or next(iter(after.split()), "")
    return (end,) if end else ()


def _by_template(tokenizer: Any, messages: Messages) -> str:
    begun = messages[-1]["role"] == "assistant"
    return _applied(
        tokenizer, messages, add_generation_prompt=not begun, continue_final_message=begun
    )


def _applied(tokenizer: Any, messages: Messages, **options: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "prompt_format: 'chat' requires a tokenizer with a chat template, and this one has "
            f"none; expected one of {', '.join(each for each in PROMPT_FORMATS if each != 'chat')}"
        )
    turns = [dict(each) for each in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception as error:  # jinja's errors, and any that a template raises
        raise ValueError(f"prompt_format: the chat template rejects a prompt: {error}") from error
