"""The training sets by name: one small file for each."""

from __future__ import annotations

from sweeps.finetune.training_sets import (
    alpaca,
    competition_math,
    gsm8k,
    magicoder_evol_instruct,
    mbpp,
    messages,
    metamathqa,
    prompt_response,
    self_instruct,
    sharegpt,
    tulu_v2,
)
from sweeps.finetune.training_sets.training_set import TrainingSet

TRAINING_SETS: dict[str, TrainingSet] = {
    "prompt_response": prompt_response.TRAINING_SET,
    "alpaca": alpaca.TRAINING_SET,
    "competition_math": competition_math.TRAINING_SET,
    "gsm8k": gsm8k.TRAINING_SET,
    "magicoder_evol_instruct": magicoder_evol_instruct.TRAINING_SET,
    "mbpp": mbpp.TRAINING_SET,
    "messages": messages.TRAINING_SET,
    "metamathqa": metamathqa.TRAINING_SET,
    "self_instruct": self_instruct.TRAINING_SET,
    "sharegpt": sharegpt.TRAINING_SET,
    "tulu_v2": tulu_v2.TRAINING_SET,
}
