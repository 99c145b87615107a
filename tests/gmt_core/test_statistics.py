"""What is measured, on which updates, against counts by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from gmt_core import (
    SFT,
    GradientMask,
    GradientMasker,
    HalfFineTuning,
    MaskStatistics,
    RandomMask,
    rules,
    threshold,
)
from gmt_core.element_sample import ElementSample
from gmt_core.magnitudes import LocalPool
from gmt_core.radix import Counter, Intervals


def steps(
    masker: GradientMasker, parameters: dict[str, nn.Parameter], updates: int
) -> list[tuple[MaskStatistics | None, Tensor]]:
    """After each update: the statistics, and which elements' gradients stayed."""
    optimizer = SGD(list(parameters.items()), lr=0.1, momentum=0.9)
    masker.attach(optimizer)
    found = []
    for update in range(updates):
        draw = torch.Generator().manual_seed(update)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()
        kept = torch.cat([p.grad.flatten() != 0 for p in parameters.values()])
        found.append((masker.statistics, kept))
    return found


def two() -> dict[str, nn.Parameter]:
    shapes = {"layers.0.mlp.up_proj.weight": (30, 20), "layers.0.mlp.down_proj.weight": (20, 30)}
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("method", [GradientMask(0.7), RandomMask(0.7), SFT(), HalfFineTuning()])
def test_jaccard_and_moved_fraction_equal_counts_by_hand(method) -> None:
    found = steps(GradientMasker(method, mode="update", statistics_every=1), two(), 4)
    assert found[0][0].jaccard is None
    for (_, before), (statistics, kept) in pairwise(found):
        expected = int((before & kept).sum()) / int((before | kept).sum())
        assert statistics.jaccard == pytest.approx(expected)
        assert statistics.moved_fraction == pytest.approx(float(kept.float().mean()))


def test_masked_weights_move_under_momentum() -> None:
    (_, _), (statistics, _) = steps(GradientMasker(RandomMask(0.5), statistics_every=1), two(), 2)
    assert statistics.kept_fraction == 0.5
    assert statistics.moved_fraction > 0.7


def test_only_every_kth_update_is_measured_with_the_mask_before_it() -> None:
    every = [s for s, _ in steps(GradientMasker(GradientMask(0.6), statistics_every=1), two(), 7)]
    third = [s for s, _ in steps(GradientMasker(GradientMask(0.6), statistics_every=3), two(), 7)]
    assert third[0] == third[1] == third[2] == every[0]
    assert third[3] == third[5] == every[3]
    assert third[6] == every[6] and every[6].jaccard is not None
    never = [s for s, _ in steps(GradientMasker(GradientMask(0.6), statistics_every=0), two(), 3)]
    assert never == [None] * 3


def test_kept_fraction_of_each_kind_of_module() -> None:
    parameters = two()
    with torch.no_grad():
        optimizer = SGD(list(parameters.items()), lr=0.1)
        masker = GradientMasker(GradientMask(0.5, "global"), statistics_every=1).attach(optimizer)
        for parameter, scale in zip(parameters.values(), (1.0, 100.0), strict=True):
            parameter.grad = scale + torch.rand(parameter.shape)
        optimizer.step()
    assert masker.statistics.kept_by_kind == {"up_proj": 0.0, "down_proj": 1.0}
    assert masker.statistics.metrics(kinds=True)["gmt/kept_fraction/down_proj"] == 1.0
    assert "gmt/kept_fraction/down_proj" not in masker.statistics.metrics()


def test_after_a_loaded_state_the_mask_before_is_unknown() -> None:
    masker = GradientMasker(GradientMask(0.6), statistics_every=1)
    steps(masker, two(), 2)
    masker.detach()
    masker.load_state_dict({"update": 7, "seed": None})
    assert masker.statistics is None
    assert steps(masker, two(), 1)[0][0].jaccard is None


@pytest.mark.parametrize("most", [1, 50, 1000, 10_000])
def test_a_sample_covers_every_tensor_evenly(most: int) -> None:
    tensors = [
        torch.zeros(40, 50),
        torch.zeros(3),
        torch.zeros(()),
        torch.zeros(700),
        torch.ones(0),
    ]
    sample = ElementSample.of(tensors, most)
    total = sum(t.numel() for t in tensors)
    chosen = [
        torch.arange(t.numel())[f :: sample.step]
        for t, f in zip(tensors, sample.firsts, strict=True)
    ]
    count = sum(len(indices) for indices in chosen)
    assert count <= most if most < total else count == total
    assert count >= most / 2 - 1 or count == total
    whole, first = [], 0
    for tensor, indices in zip(tensors, chosen, strict=True):
        whole.append(indices + first)
        first += tensor.numel()
    gaps = torch.cat(whole).diff()
    assert len(set(gaps.tolist())) <= 1


def test_the_energy_kept_is_summed_in_double() -> None:
    parameter = nn.Parameter(torch.zeros(300_000))
    parameter.grad = torch.randn(300_000, generator=torch.Generator().manual_seed(0)) * 1e-25
    before, optimizer = parameter.grad.double(), SGD([parameter], lr=0.1)
    masker = GradientMasker(GradientMask(0.9), statistics_every=1).attach(optimizer)
    optimizer.step()
    after = parameter.grad.double()
    expected = float(after.square().sum() / before.square().sum())
    assert masker.statistics.energy_kept == pytest.approx(expected, rel=1e-12)


def test_a_sample_estimates_the_moved_fraction() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(1 << 22))
    optimizer = AdamW([parameter], lr=1e-3, weight_decay=0.0)
    masker = GradientMasker(RandomMask(0.3), mode="update", statistics_every=1).attach(optimizer)
    parameter.grad = torch.randn(1 << 22)
    optimizer.step()
    assert masker.statistics.moved_fraction == pytest.approx(0.7, abs=0.002)


class Reads(TorchDispatchMode):
    """How often the host waits for a value of a tensor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, read: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def counting(tensor: Tensor) -> Any:
            self.count += 1
            return read(tensor)

        return counting

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name = func.overloadpacket.__name__
        picked = [t for t in args[1:] if name == "index" for t in t if t is not None]
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "bincount") or any(
            t.dtype == torch.bool for t in picked
        ):
            self.count += 1
        return func(*args, **(kwargs or {}))


class StandInKernels:
    """What the CUDA kernels do, in operations that read nothing."""

    class KernelCounter(Counter):
        def __init__(self, pools: Sequence[LocalPool]) -> None:
            self._pools = pools

        def histogram(self, intervals: Intervals, bin_width: int) -> Tensor:
            bins, rows = 1 << (intervals.width - bin_width), []
            for pool, low in zip(self._pools, intervals.low.unbind(), strict=True):
                keys = torch.cat([m.bits(slice(None)).long() for m in pool]).sub(low) >> bin_width
                keys = torch.where((keys >= 0) & (keys < bins), keys, bins)
                rows.append(torch.zeros(bins + 1, dtype=torch.int64))
                rows[-1].scatter_add_(0, keys, torch.ones_like(keys))
            return torch.stack(rows)[:, :bins]

    @staticmethod
    def mask_(gradients: Sequence[Tensor], thresholds: Sequence[Tensor]) -> None:
        for gradient, least in zip(gradients, thresholds, strict=True):
            gradient.copy_(torch.where(gradient.abs() < least, 0, gradient))

    @classmethod
    def mask_and_count_(cls, gradients: Sequence[Tensor], thresholds: Sequence[Tensor]) -> Tensor:
        cls.mask_(gradients, thresholds)
        return torch.stack([gradient.count_nonzero() for gradient in gradients])


def test_a_measured_update_of_many_tensors_reads_a_device_four_times(monkeypatch) -> None:
    for module in (threshold, rules):
        monkeypatch.setattr(module, "kernels_for", lambda device, dtype: StandInKernels)
    parameters = [nn.Parameter(torch.ones(20 + place % 7)) for place in range(291)]
    draw = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.grad = torch.randn(len(parameter), generator=draw)
    found = []
    for every in (0, 1):
        optimizer = SGD(parameters, lr=0.1, foreach=False)
        masker = GradientMasker(GradientMask(0.5), statistics_every=every).attach(optimizer)
        for _ in range(2):
            with Reads(monkeypatch) as reads:
                optimizer.step()
            found.append(reads.count)
        masker.detach()
    assert max(found[:2]) <= 1 and max(found[2:]) <= 4
    assert masker.statistics.kept_fraction == pytest.approx(0.5, abs=0.03)
    assert masker.statistics.jaccard == 1.0


def test_the_sample_looks_at_no_other_element(monkeypatch) -> None:
    parameters = [nn.Parameter(torch.ones(1 << 20)) for _ in range(3)]
    for parameter in parameters:
        parameter.grad = torch.randn(len(parameter))
    looked: list[int] = []
    real = rules._at_least

    def counted(values: Tensor, limit: Tensor) -> Tensor:
        looked.append(values.numel())
        return real(values, limit)

    monkeypatch.setattr(rules, "_at_least", counted)
    optimizer = SGD(parameters, lr=0.1)
    GradientMasker(GradientMask(0.5), statistics_every=1).attach(optimizer)
    optimizer.step()
    assert 0 < sum(looked) <= 1 << 20  # the sample's size


def test_every_tenth_update_is_measured_by_default() -> None:
    optimizer = SGD([parameter := nn.Parameter(torch.ones(64))], lr=0.1)
    masker = GradientMasker(GradientMask(0.5)).attach(optimizer)
    measured = []
    for update in range(21):
        parameter.grad = torch.randn(64)
        before = masker.statistics
        optimizer.step()
        if masker.statistics is not before:
            measured.append(update)
    assert measured == [0, 10, 20]


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"statistics_every: expected 0 \(never\) or more"):
        GradientMasker(SFT(), statistics_every=-1)
