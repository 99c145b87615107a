"""Speed and memory of selection and masking, each against its comparator in the same run.

    python benchmarks/masking.py selection --out FOLDER       # against kthvalue, topk, abs + clone
    python benchmarks/masking.py memory --out FOLDER
    python benchmarks/masking.py small --out FOLDER           # all tensors of the embedded model
    python benchmarks/masking.py step --model 10m --out FOLDER   # or 100m: a training step
    python benchmarks/masking.py model --model FOLDER --rows FILE --out FOLDER
    python benchmarks/masking.py updates --model FOLDER --rows FILE --tokens 1024 --out FOLDER
    python benchmarks/masking.py gpu --model 1b --out FOLDER     # or 7b: selection beside a copy
    python benchmarks/masking.py train --model 1b --out FOLDER   # or smollm2: updates on a GPU

`model` and `updates` take the Hugging Face folder of a causal language model, and a JSONL file.

Candidates take turns, A, B, C, A, B, C; the table holds the least and the median of each.
`--threads` (default 2) sets the CPU threads.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from masking_model import model_rows, update_rows
from masking_steps import gpu_rows, step_rows, train_rows
from resident_memory import peak_growth
from torch import Tensor

from gmt_core import GradientMask, GradientMasker, kept_count, magnitude_threshold
from gmt_core.gradient_mask import Scope

Row = dict[str, object]
ELEMENTS = 16 * 2**20
RATIOS = (0.1, 0.5, 0.9, 0.99)
DTYPES = (torch.float32, torch.bfloat16)
SCOPES: tuple[Scope, ...] = ("tensor", "global")
SMALL_SHAPES = (
    [(128, 128)] * 12 + [(208, 128)] * 6 + [(128, 208)] * 3 + [(512, 128)] + [(128,)] * 7
)


@dataclass(frozen=True)
class Times:
    """Milliseconds of each round: on the clock, and of this process on all CPUs."""

    wall: list[float]
    cpu: list[float]

    def row(self, name: str) -> Row:
        """The least and the median, as columns."""
        return {
            f"{name}_ms": round(min(self.wall), 3),
            f"{name}_median_ms": round(statistics.median(self.wall), 3),
            f"{name}_cpu_ms": round(min(self.cpu), 3),
        }


def take_turns(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Every candidate once in each round, after one round that does not count."""
    times = {name: Times([], []) for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if number:
                times[name].cpu.append(1e3 * (time.process_time() - cpu))
                times[name].wall.append(1e3 * (time.perf_counter() - wall))
    return times


def gradient(kind: str, dtype: torch.dtype) -> Tensor:
    """Normal, or its fifth power: heavy-tailed."""
    x = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(0))
    return (x if kind == "normal" else x**5).to(dtype)


def selection_rows(rounds: int) -> Iterator[Row]:
    """The threshold of 16 Mi elements; kthvalue and topk are given |g| and pay no abs()."""
    for dtype in DTYPES:
        for kind in ("normal", "heavy"):
            x = gradient(kind, dtype)
            magnitudes = x.abs()
            for ratio in RATIOS:
                yield selection_row(x, magnitudes, ratio, rounds) | {
                    "dtype": str(dtype).removeprefix("torch."), "gradient": kind, "ratio": ratio,
                }  # fmt: skip


def selection_row(x: Tensor, magnitudes: Tensor, ratio: float, rounds: int) -> Row:
    """One point: times, their ratios, and whether the threshold is kthvalue's."""
    kept = kept_count(x.numel(), ratio)
    rank = x.numel() - kept + 1
    times = take_turns(
        {
            "ours": lambda: magnitude_threshold(x, kept),
            "kthvalue": lambda: magnitudes.kthvalue(rank),
            "topk": lambda: magnitudes.topk(kept, sorted=False),
            "abs_clone": lambda: (x.abs(), x.clone()),
        },
        rounds,
    )
    row: Row = {"exact": torch.equal(magnitude_threshold(x, kept), magnitudes.kthvalue(rank)[0])}
    for name, values in times.items():
        row |= values.row(name)
    for clock, (ours, kth, topk, copies) in {
        "": [min(t.wall) for t in times.values()],
        "_cpu": [min(t.cpu) for t in times.values()],
    }.items():
        row |= {
            f"kthvalue_over_ours{clock}": round(kth / ours, 2),
            f"topk_over_ours{clock}": round(topk / ours, 2),
            f"ours_over_abs_clone{clock}": round(ours / copies, 2),
        }
    return row


def memory_row(
    name: str, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, scope: Scope
) -> Row:
    """How far masking raises the resident peak above what is resident before it."""
    method = GradientMask(0.5, scope)
    method.mask_([torch.randn(300_000)], 0)  # code and pools that stay, whatever the model
    gradients = [torch.randn(shape, dtype=dtype) for shape in shapes]
    ctypes.CDLL(None).malloc_trim(0)  # nor may freed memory hide what masking takes
    extra = peak_growth(lambda: method.mask_(gradients, 1))
    elements = sum(g.numel() for g in gradients)
    return {"model": name, "dtype": str(dtype).removeprefix("torch."), "scope": scope,
            "elements": elements, "extra_mib": round(extra, 2)}  # fmt: skip


def memory_rows() -> Iterator[Row]:
    """Each point in a process of its own, so that no allocator keeps memory for the next."""
    million, llama = [(1024, 1024)], [(2048, 2048)] * 40 + [(5632, 2048)] * 30 + [(2048,)] * 40
    models: dict[str, Sequence[tuple[int, ...]]] = {
        "one of 1 M": million,
        "one of 64 M": [(8192, 8192)],
        "embedded": SMALL_SHAPES,
        "Llama, 0.5 B": llama,
        "3,000 adapters of 8 K": [(8, 1024)] * 3000,
    }
    for name, shapes in models.items():
        for dtype in DTYPES:
            for scope in SCOPES:
                reader, writer = os.pipe()
                if not os.fork():
                    torch.set_num_threads(1)
                    os.write(writer, repr(memory_row(name, shapes, dtype, scope)).encode())
                    os._exit(0)
                os.close(writer)
                with os.fdopen(reader) as pipe:
                    yield eval(pipe.read(), {"__builtins__": {}})
                os.wait()


def renew(parameters: list[torch.nn.Parameter], gradients: list[Tensor]) -> None:
    """Give each parameter a copy of its gradient."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()


def order_statistics(magnitudes: list[Tensor], ranks: list[int]) -> list[object]:
    """Each tensor's element of its rank, 1 for the smallest, by kthvalue."""
    return [each.kthvalue(rank) for each, rank in zip(magnitudes, ranks, strict=True)]


def small_rows(rounds: int) -> Iterator[Row]:
    """One masking of an update of the embedded model: 29 tensors, 0.5 M elements."""
    for measured in (False, True):
        for ratio in (0.1, 0.5, 0.9):
            parameters = [torch.nn.Parameter(torch.randn(s)) for s in SMALL_SHAPES]
            fresh = [torch.randn(s) for s in SMALL_SHAPES]
            magnitudes = [g.abs().flatten() for g in fresh]
            ranks = [m.numel() - kept_count(m.numel(), ratio) + 1 for m in magnitudes]
            optimizer = torch.optim.SGD(parameters, lr=0.0)

            GradientMasker(GradientMask(ratio), statistics_every=int(measured)).attach(optimizer)
            times = take_turns(
                {
                    "renew": partial(renew, parameters, fresh),
                    "step_and_mask": optimizer.step,
                    "kthvalue": partial(order_statistics, magnitudes, ranks),
                },
                rounds,
            )
            row: Row = {"statistics": measured, "ratio": ratio}
            for name, values in times.items():
                row |= values.row(name)
            yield row


def main() -> None:
    """Run one benchmark, print its rows and write them to FOLDER/NAME.csv."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = ("selection", "memory", "small", "step", "model", "updates", "gpu", "train")
    parser.add_argument("what", choices=kinds)
    parser.add_argument(
        "--model", default="10m", help="10m, 100m, smollm2, 1b, 7b, or a model's folder"
    )
    parser.add_argument("--rows", type=Path, help="of model and updates: a JSONL file")
    parser.add_argument("--tokens", type=int, default=1024, help="of updates: a multiple of 512")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder, tokens = Path(chosen.model), chosen.tokens
    rows: dict[str, Callable[[], Iterator[Row]]] = {
        "selection": lambda: selection_rows(chosen.rounds),
        "memory": memory_rows,
        "small": lambda: small_rows(chosen.rounds),
        "step": lambda: step_rows(chosen.model, chosen.rounds),
        "model": lambda: model_rows(take_turns, folder, chosen.rows, chosen.rounds),
        "updates": lambda: update_rows(folder, chosen.rows, tokens, chosen.rounds),
        "gpu": lambda: gpu_rows(chosen.model, chosen.rounds),
        "train": lambda: train_rows(chosen.model, chosen.rounds),
    }
    has_shape = chosen.what in ("step", "gpu", "train")
    name = f"{chosen.what}_{chosen.model}" if has_shape else chosen.what
    name += f"_{tokens}" if chosen.what == "updates" else ""
    chosen.out.mkdir(parents=True, exist_ok=True)
    with (chosen.out / f"{name}.csv").open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows[chosen.what]():
            print(row, flush=True)
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
