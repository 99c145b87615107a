"""Gradient-Mask Tuning of a model sharded by FSDP2: two lines, marked (1) and (2).

Run it with `torchrun --nproc-per-node 2 examples/fsdp2.py --model MODEL --data rows.jsonl --output
out` on two GPUs, or with `--cpu` on two CPU processes. Each row is a JSON object with a "text".
The mask equals that of the whole gradient; ranks exchange counts, never gradients.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from datasets import load_dataset
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling

from gmt_core import GradientMask, GradientMasker  # (1)

ACCUMULATION_INTERVAL = 4  # mini-batches per update; others call it gradient_accumulation_steps


def batches(model: str, data: str) -> Iterator[dict[str, Any]]:
    """This rank's mini-batches, epoch after epoch."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = load_dataset("json", data_files=data, split="train")
    tokens = [tokenizer(text, truncation=True, max_length=512) for text in rows["text"]]
    sampler = DistributedSampler(tokens, shuffle=True, seed=0)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    loader = DataLoader(tokens, batch_size=4, sampler=sampler, collate_fn=collator)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def main() -> None:
    """Read the options, train, and save from rank 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or name of a causal language model")
    parser.add_argument("--data", required=True, help='JSON lines, each with a "text"')
    parser.add_argument("--output", required=True, help="folder for the result")
    parser.add_argument("--mask-ratio", type=float, default=0.2, help="share zeroed, in [0, 1)")
    parser.add_argument("--updates", type=int, default=100, help="optimizer steps")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, with gloo")
    options = parser.parse_args()

    dist.init_process_group("gloo" if options.cpu else "nccl")
    device = torch.device("cpu")
    if not options.cpu:
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))

    model = AutoModelForCausalLM.from_pretrained(options.model).to(device)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-4, weight_decay=0.0)
    masker = GradientMasker(GradientMask(options.mask_ratio), statistics_every=1)
    masker.attach(optimizer)  # (2)

    source = batches(options.model, options.data)
    for update in range(options.updates):
        for part in range(ACCUMULATION_INTERVAL):
            model.set_requires_gradient_sync(part == ACCUMULATION_INTERVAL - 1)
            batch = {name: tensor.to(device) for name, tensor in next(source).items()}
            loss = model(**batch).loss / ACCUMULATION_INTERVAL
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()  # the masker acts here, once, on the reduced and clipped gradient
        optimizer.zero_grad()
        if masker.statistics is not None and dist.get_rank() == 0:
            kept, energy = masker.statistics.kept_fraction, masker.statistics.energy_kept
            print(f"update {update}: {kept:.1%} of the gradient kept, {energy:.1%} of its energy")

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    if dist.get_rank() == 0:
        model.save_pretrained(options.output, state_dict=weights)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
