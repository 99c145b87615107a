"""Gradient-Mask Tuning in Hugging Face's Trainer: two lines, marked (1) and (2).

Run it with `python examples/hf_trainer.py --model MODEL --data rows.jsonl --output out`. Each row
is a JSON object with a "text".
"""

from __future__ import annotations

import argparse

from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

from gmt_core.integrations.huggingface import (  # (1)
    GradientMask,
    GradientMaskCallback,
    GradientMasker,
)


def main() -> None:
    """Read the options, train, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--data", required=True, help='JSON lines, each with a "text"')
    parser.add_argument("--output", required=True, help="folder for checkpoints and the result")
    parser.add_argument("--mask-ratio", type=float, default=0.2, help="share zeroed, in [0, 1)")
    parser.add_argument("--max-steps", type=int, default=-1, help="updates; default: 3 epochs")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = load_dataset("json", data_files=options.data, split="train")
    rows = rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=512),
        batched=True,
        remove_columns=rows.column_names,
    )
    trainer = Trainer(
        AutoModelForCausalLM.from_pretrained(options.model),
        TrainingArguments(
            output_dir=options.output,
            max_steps=options.max_steps,
            use_cpu=options.cpu,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            learning_rate=1e-4,
            lr_scheduler_type="cosine",
            logging_steps=2,
            save_steps=50,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    masker = GradientMasker(GradientMask(options.mask_ratio), statistics_every=1)
    GradientMaskCallback(masker).add_to(trainer)  # (2)
    trainer.train(resume_from_checkpoint=options.resume)
    trainer.save_model()


if __name__ == "__main__":
    main()
