"""The formats of training rows: their names, default datasets and prompts."""

from __future__ import annotations

from typing import Literal

from evaluators.prompt_formats import PromptFormat

TrainFormat = Literal[
    "prompt_response",
    "alpaca",
    "competition_math",
    "gsm8k",
    "magicoder_evol_instruct",
    "mbpp",
    "messages",
    "metamathqa",
    "self_instruct",
    "sharegpt",
    "tulu_v2",
]
HOMES: dict[str, dict[str, str]] = {
    "alpaca": {"path": "tatsu-lab/alpaca"},
    "competition_math": {"path": "DigitalLearningGmbH/MATH-lighteval"},
    "gsm8k": {"path": "openai/gsm8k", "subset": "main"},
    "magicoder_evol_instruct": {"path": "ise-uiuc/Magicoder-Evol-Instruct-110K"},
    "mbpp": {"path": "google-research-datasets/mbpp", "subset": "full"},
    "metamathqa": {"path": "meta-math/MetaMathQA"},
    "tulu_v2": {"path": "allenai/tulu-v2-sft-mixture"},
}
"""The formats with a default dataset on the Hub."""
CONVERSATIONS = ("messages", "sharegpt", "tulu_v2")
"""The formats whose rows are conversations."""
PROMPTS: dict[str, PromptFormat] = {
    **dict.fromkeys(("alpaca", "self_instruct"), "alpaca"),
    **dict.fromkeys(("competition_math", "metamathqa"), "metamath"),
    **dict.fromkeys(CONVERSATIONS, "tulu"),
    "magicoder_evol_instruct": "magicoder",
}
"""The prompt format of a training format; the others are the prompts of their benchmarks."""
COLUMNS = {
    "prompt_response": ("prompt", "response"),
    "alpaca": ("instruction", "output", "input"),
    "messages": ("messages", "system", "tools"),
    "sharegpt": ("conversations", "system", "tools"),
}
"""The fields that may have other names in a file, by format. Other formats are of one dataset."""
