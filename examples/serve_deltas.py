"""One base model and two deltas: tune twice, save what changed, and serve both from one base.

Run it with `python examples/serve_deltas.py --folder out`; it takes a few seconds on a CPU. It
needs safetensors: `pip install './gmt_core[delta]'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from gmt_core import GradientMask, GradientMasker
from gmt_core.sparse_delta import TensorFiles, apply_delta, load_delta, save_delta

TASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda x: x.prod(dim=1, keepdim=True),
    "sum": lambda x: x.sum(dim=1, keepdim=True),
}


def network() -> nn.Module:
    """What is tuned: (rows, 2) to (rows, 1)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1)
    )


def tune(model: nn.Module, task: Callable[[Tensor], Tensor]) -> None:
    """Fine-tune on a task; in mode `update` masked weights stay put, so the delta is smaller."""
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, weight_decay=0.0)
    GradientMasker(GradientMask(mask_ratio=0.9), mode="update").attach(optimizer)
    for _ in range(300):
        x = torch.randn(64, 2)
        nn.functional.mse_loss(model(x), task(x)).backward()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    """Tune and save; then serve both tasks by turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    save_model(network(), str(folder / "base.safetensors"))
    base = TensorFiles(folder / "base.safetensors")  # or the folder of a Hugging Face model
    for name, task in TASKS.items():
        model = network()
        tune(model, task)
        save_delta(base, model.state_dict(), folder / f"{name}.delta.safetensors")

    # A server keeps one model; base and deltas stay in their files until a tensor is copied.
    served = network()
    tuned = {
        name: apply_delta(base, load_delta(folder / f"{name}.delta.safetensors")) for name in TASKS
    }
    x = torch.tensor([[1.5, -1.0]])
    for name in ("product", "sum", "product"):
        with torch.no_grad():
            for parameter, weight in served.named_parameters():
                weight.copy_(tuned[name][parameter])
        bytes_on_disk = (folder / f"{name}.delta.safetensors").stat().st_size
        print(f"{name} of 1.5 and -1.0: {served(x).item():.2f} (delta: {bytes_on_disk} bytes)")


if __name__ == "__main__":
    main()
