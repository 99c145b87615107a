"""The Tulu V2 mixture (Ivison et al. 2023, arXiv 2311.10702): messages with their source."""

from __future__ import annotations

from sweeps.finetune.training_sets.messages import read
from sweeps.finetune.training_sets.training_set import Home, TrainingSet

TRAINING_SET = TrainingSet(read, Home("allenai/tulu-v2-sft-mixture"))
