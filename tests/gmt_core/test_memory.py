"""Mode gradient never holds a copy of a gradient, and statistics take a few MiB."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

from gmt_core import GradientMasker
from tests.gmt_core.reference import METHODS

BYTES = 20 << 20


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made, in bytes."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.bytes, self.known = 0, {t.untyped_storage().data_ptr() for t in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [m for name, m in METHODS.items() if "by name" not in name])
def test_no_operation_makes_a_large_tensor(method, dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.ones(BYTES // dtype.itemsize, dtype=dtype))
    parameter.grad = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)).to(
        dtype
    )
    optimizer = SGD([("layers.0.mlp.up_proj.weight", parameter)], lr=0.0)
    GradientMasker(method()).attach(optimizer)
    hook = next(iter(optimizer._optimizer_step_pre_hooks.values()))
    with Largest([parameter, parameter.grad]) as largest:
        hook(optimizer, (optimizer,), {})
    mask = parameter.numel() if method().stores_masks else 0
    assert largest.bytes <= max(8 << 20, mask)


MEASURED = """
import torch
from torch import nn
from benchmarks.resident_memory import peak_growth
from gmt_core import GradientMask, GradientMasker
torch.set_num_threads(1)
parameters = [nn.Parameter(torch.randn(512, 1024)) for _ in range(48)]
optimizer = torch.optim.SGD(parameters, lr=0.1, foreach=False)
GradientMasker(GradientMask(0.5), statistics_every=1).attach(optimizer)
def update():
    for parameter in parameters:
        parameter.grad.normal_()
    optimizer.step()
for parameter in parameters:
    parameter.grad = torch.ones_like(parameter)
print(peak_growth(update))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_statistics_do_not_scatter_the_heap() -> None:
    """Results that outlive the temporaries beside them once took 3 MiB for each tensor."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 64


HELD = """
import torch
from torch import nn
from benchmarks.resident_memory import peak_growth
from gmt_core import GradientMask, GradientMasker
torch.set_num_threads(1)
parameter = nn.Parameter(torch.randn(4096, 4096))
parameter.grad = torch.randn(4096, 4096)
optimizer = torch.optim.Adam([parameter], lr=0.1, fused=True)
optimizer.step()
GradientMasker(GradientMask(0.5), mode="{mode}").attach(optimizer)
optimizer.step()
print(peak_growth(optimizer.step))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("mode", "tensors"), [("update", 1), ("state", 3)])
def test_modes_take_a_byte_for_each_element_and_what_they_keep(mode: str, tensors: int) -> None:
    """16 Mi elements, of which half are masked; indices of 64 bits would take 64 MiB more."""
    done = subprocess.run(
        [sys.executable, "-c", HELD.format(mode=mode)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 16 + 32 * tensors + 16
