"""Gradient-Mask Tuning in TRL's DPOTrainer: two lines, marked (1) and (2).

Nothing about the mask depends on the loss. Run it with
`python examples/trl_dpo.py --model MODEL --data pairs.jsonl --output out`. Each row is a JSON
object with a "prompt", a "chosen" and a "rejected" answer.
"""

from __future__ import annotations

import argparse

import torch
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

from gmt_core.integrations.huggingface import (  # (1)
    GradientMask,
    GradientMaskCallback,
    GradientMasker,
)


def main() -> None:
    """Read the options, train, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--data", required=True, help="JSON lines")
    parser.add_argument("--output", required=True, help="folder for checkpoints and the result")
    parser.add_argument("--mask-ratio", type=float, default=0.2, help="share zeroed, in [0, 1)")
    parser.add_argument("--max-steps", type=int, default=-1, help="updates; default: 3 epochs")
    parser.add_argument("--cpu", action="store_true", help="even where a GPU is")
    options = parser.parse_args()

    trainer = DPOTrainer(
        options.model,
        args=DPOConfig(
            output_dir=options.output,
            max_steps=options.max_steps,
            # Where there is none: TRL asks for bf16 otherwise.
            use_cpu=options.cpu or not torch.accelerator.is_available(),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            learning_rate=1e-5,
            logging_steps=2,
        ),
        train_dataset=load_dataset("json", data_files=options.data, split="train"),
    )
    masker = GradientMasker(GradientMask(options.mask_ratio), statistics_every=1)
    GradientMaskCallback(masker).add_to(trainer)  # (2)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
