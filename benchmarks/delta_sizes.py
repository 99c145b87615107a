"""How large delta files are beside a file of all tuned tensors.

    python benchmarks/delta_sizes.py                              # two layers of 512 x 512
    python benchmarks/delta_sizes.py --model FOLDER --text FILE   # a Hugging Face model

Each case tunes by 20 AdamW updates on fresh batches (learning rate 1e-3 for the layers, 1e-5 for
the model) and compares the delta with `save_file` of the tuned tensors. One CSV line per case.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gmt_core import GradientMask, GradientMasker
from gmt_core.sparse_delta import load_delta, save_delta

UPDATES = 20
TOKENS = 128
# dtype, mode of the masker, mask ratio
CASES = (
    (torch.float32, "gradient", 0.3),
    (torch.bfloat16, "gradient", 0.3),
    (torch.float32, "update", 0.9),
    (torch.float32, "update", 0.3),
    (torch.bfloat16, "gradient", 0.9),
    (torch.bfloat16, "update", 0.9),
)
Losses = Callable[[nn.Module], Iterator[Tensor]]


def layers(dtype: torch.dtype) -> nn.Module:
    """Two linear layers of 512 x 512."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512)).to(dtype)


def layer_losses(model: nn.Module) -> Iterator[Tensor]:
    """Squared errors on random targets, 64 rows each."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    for _ in range(UPDATES):
        x, y = torch.randn(2, 64, 512, generator=generator).to(dtype)
        yield (model(x) - y).square().mean()


def text_losses(folder: str, text: str) -> Losses:
    """Losses of a language model on successive pieces of a text."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"][0]

    def losses(model: nn.Module) -> Iterator[Tensor]:
        for piece in tokens.split(TOKENS)[:UPDATES]:
            yield model(input_ids=piece[None], labels=piece[None]).loss

    return losses


def tune(model: nn.Module, losses: Losses, mode: str, mask_ratio: float, rate: float) -> None:
    """One AdamW update for each loss, without weight decay."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    GradientMasker(GradientMask(mask_ratio), mode=mode).attach(optimizer)  # type: ignore[arg-type]
    for loss in losses(model):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def sizes(base: dict[str, Tensor], tuned: dict[str, Tensor]) -> tuple[int, int, Counter[str]]:
    """Bytes of the delta and of the dense file, and how often each form occurs."""
    with tempfile.TemporaryDirectory() as folder:
        delta, dense = Path(folder, "delta.safetensors"), Path(folder, "dense.safetensors")
        save_delta(base, tuned, delta)
        save_file(tuned, dense)
        forms = Counter(
            plane.form for e in load_delta(delta).entries.values() for plane in e.planes
        )
        return delta.stat().st_size, dense.stat().st_size, forms


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters; tied ones occur once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def main() -> None:
    """Tune, save and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; default: two layers")
    parser.add_argument("--text", type=Path, help="a text file to tune the model on")
    options = parser.parse_args()
    print("dtype,mode,mask_ratio,changed,delta_bytes,dense_bytes,ratio,forms")
    for dtype, mode, mask_ratio in CASES:
        if options.model:
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
            losses, rate = text_losses(options.model, options.text.read_text()), 1e-5
        else:
            model, losses, rate = layers(dtype), layer_losses, 1e-3
        base = weights(model)
        tune(model, losses, mode, mask_ratio, rate)
        tuned = weights(model)
        changed = sum(int((base[n] != tuned[n]).sum()) for n in base)
        changed_share = changed / sum(t.numel() for t in base.values())
        delta, dense, forms = sizes(base, tuned)
        form = " ".join(f"{name}:{count}" for name, count in sorted(forms.items()))
        kind = str(dtype).removeprefix("torch.")
        print(
            f"{kind},{mode},{mask_ratio},{changed_share:.4f},{delta},{dense},"
            f"{delta / dense:.4f},{form}",
            flush=True,
        )


if __name__ == "__main__":
    main()
