"""What a run changes in its process, put back when the run ends however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def borrowed_process(device: torch.device, threads: int | None) -> Iterator[None]:
    """Use `threads` CPU threads and `device`; restore threads, device and random states."""
    before = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _on(device):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        try:
            yield
        finally:
            torch.cuda.empty_cache()  # the next run in this process starts with all memory
