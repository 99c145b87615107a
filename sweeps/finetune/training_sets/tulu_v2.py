"""The Tulu V2 mixture (Ivison et al. 2023, arXiv 2311.10702): messages with their source.

270 conversations of the published mixture hold an empty message (open-instruct issue 161). Such
a conversation is a bad row as a whole, as in open-instruct's own filter
(`should_be_filtered_by_empty_message`): an empty answer would teach to say nothing, and what
follows an empty message answers nothing.
"""

from __future__ import annotations

from sweeps.finetune.training_sets import messages
from sweeps.finetune.training_sets.training_set import Home, TrainingSet

TRAINING_SET = TrainingSet(messages.TRAINING_SET.read, Home("allenai/tulu-v2-sft-mixture"))
