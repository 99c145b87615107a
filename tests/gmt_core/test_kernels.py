"""The Triton kernels, in Triton's interpreter on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from gmt_core import GradientMask, accelerated, magnitude_thresholds

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@needs_triton
def test_kernels_agree_with_a_full_sort_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted_kernels.py"))],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1",
        },
        cwd=ROOT,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "kernels agree with a full sort\n"


@needs_triton
def test_without_a_c_compiler_torch_masks_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    gpu = torch.device("cuda")
    for cached in (accelerated.kernels_for, accelerated._compiles):
        cached.cache_clear()
    with pytest.warns(UserWarning, match="finds no C compiler") as warned:
        assert accelerated.kernels_for(gpu, torch.float32) is None
        assert accelerated.kernels_for(gpu, torch.bfloat16) is None
    assert len(warned) == 1
    accelerated._compiles.cache_clear()
    accelerated.kernels_for.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/cc" if name == "clang" else None)
    assert accelerated.kernels_for(gpu, torch.float32) is not None
    accelerated._compiles.cache_clear()
    accelerated.kernels_for.cache_clear()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_a_gpu_masks_as_the_cpu_does(scope: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2048, 4096), (300, 7), (1,), (0,), (513, 1000)]
    ours = [torch.randn(s, generator=generator).to(dtype) for s in shapes]
    theirs = [g.cuda() for g in ours]
    kept = [max(1, g.numel() // 3) for g in ours if g.numel()]
    found = magnitude_thresholds([g for g in theirs if g.numel()], kept)
    expected = magnitude_thresholds([g for g in ours if g.numel()], kept)
    assert torch.equal(torch.stack(found).cpu(), torch.stack(expected))
    for gradients in (ours, theirs):
        GradientMask(0.7, scope).mask_(gradients, 0)  # type: ignore[arg-type]
    assert all(torch.equal(a, b.cpu()) for a, b in zip(ours, theirs, strict=True))
