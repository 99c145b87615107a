"""What is measured, on which updates, against counts by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from gmt_core import SFT, GradientMask, GradientMasker, HalfFineTuning, MaskStatistics, RandomMask
from gmt_core.element_sample import ElementSample


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
    never = [s for s, _ in steps(GradientMasker(GradientMask(0.6)), two(), 3)]
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


def test_a_sample_estimates_the_moved_fraction() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(1 << 22))
    optimizer = AdamW([parameter], lr=1e-3, weight_decay=0.0)
    masker = GradientMasker(RandomMask(0.3), mode="update", statistics_every=1).attach(optimizer)
    parameter.grad = torch.randn(1 << 22)
    optimizer.step()
    assert masker.statistics.moved_fraction == pytest.approx(0.7, abs=0.002)


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"statistics_every: expected 0 \(never\) or more"):
        GradientMasker(SFT(), statistics_every=-1)
