"""Mode gradient without statistics never holds a copy of a gradient."""

from __future__ import annotations

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
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
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
    assert largest.bytes <= 8 << 20
