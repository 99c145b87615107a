"""Gradient-Mask Tuning in a training loop of your own: two lines, marked (1) and (2).

Run it with `python examples/plain_pytorch.py [--mask-ratio 0.3]`; it takes a few seconds on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from gmt_core import GradientMask, GradientMasker  # (1)

ACCUMULATION_INTERVAL = 4  # mini-batches per update; others call it gradient_accumulation_steps


def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sixteen points in the plane, and the product of their coordinates: (16, 2), (16, 1)."""
    x = torch.randn(16, 2, generator=generator)
    return x, x.prod(dim=1, keepdim=True)


def train(mask_ratio: float, updates: int) -> float:
    """Train a small network and return its mean loss over fresh data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
    )
    # Named parameters let error messages name the parameter; model.parameters() works too.
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, weight_decay=0.0)
    masker = GradientMasker(GradientMask(mask_ratio), statistics_every=1).attach(optimizer)  # (2)
    data = torch.Generator().manual_seed(1)
    for update in range(updates):
        for _ in range(ACCUMULATION_INTERVAL):
            x, y = batch(data)
            loss = nn.functional.mse_loss(model(x), y) / ACCUMULATION_INTERVAL
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()  # the masker acts here, once, on the accumulated and clipped gradient
        optimizer.zero_grad()
        if masker.statistics is not None and update % 100 == 0:
            kept, energy = masker.statistics.kept_fraction, masker.statistics.energy_kept
            print(f"update {update}: {kept:.1%} of the gradient kept, {energy:.1%} of its energy")
    with torch.no_grad():
        losses = [nn.functional.mse_loss(model(x), y) for x, y in (batch(data) for _ in range(32))]
    return float(torch.stack(losses).mean())


def main() -> None:
    """Read the options, train, and print the loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mask-ratio", type=float, default=0.3, help="share zeroed, in [0, 1)")
    parser.add_argument("--updates", type=int, default=400, help="optimizer steps")
    options = parser.parse_args()
    loss = train(options.mask_ratio, options.updates)
    print(f"mask_ratio {options.mask_ratio}: loss on fresh data {loss:.4f}")


if __name__ == "__main__":
    main()
