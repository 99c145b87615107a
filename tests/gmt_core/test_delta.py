"""One-off Drop against a naive reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmt_core import kept_count, one_off_drop
from gmt_core.delta import STRATEGIES

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = {"wide": (20, 31), "row": (7,), "one": (1,), "scalar": (), "none": (0, 3)}


def pair(dtype: torch.dtype, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Base and tuned: some elements unchanged, some deltas tie; a buffer of integers."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned = {}, {}
    for name, shape in SHAPES.items():
        base[name] = torch.randn(shape, generator=generator).to(dtype)
        delta = (torch.randn(shape, generator=generator) * 8).round() / 64
        tuned[name] = (base[name].float() + delta).to(dtype)
    base["steps"] = torch.arange(4)
    tuned["steps"] = torch.arange(4) + 1
    return base, tuned


def naive(before: Tensor, after: Tensor, drop_ratio: float, strategy: str) -> Tensor:
    kept = kept_count(after.numel(), drop_ratio)
    delta = (after.float() - before.float()).abs()
    order = delta.flatten().sort(descending=strategy == "trivial").values
    keeps = delta >= order[kept - 1] if strategy == "trivial" else delta <= order[kept - 1]
    return torch.where(keeps, after, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("drop_ratio", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equals_the_reference(strategy, drop_ratio: float, dtype: torch.dtype) -> None:
    base, tuned = pair(dtype)
    copies = {n: t.clone() for n, t in (*base.items(), *((f"t {k}", v) for k, v in tuned.items()))}
    found = dict(one_off_drop(base, tuned, drop_ratio, strategy, seed=3))
    assert list(found) == list(tuned)
    assert torch.equal(found["steps"], tuned["steps"])
    for name in SHAPES:
        before, after = base[name], tuned[name]
        assert found[name].dtype == dtype and found[name].shape == after.shape
        if not after.numel():
            continue
        if strategy == "random":
            dropped = int((found[name] != after).sum())
            assert dropped <= after.numel() - kept_count(after.numel(), drop_ratio)
            assert bool(((found[name] == after) | (found[name] == before)).all())
        else:
            assert torch.equal(found[name], naive(before, after, drop_ratio, strategy))
    for name in base:
        assert torch.equal(base[name], copies[name])
        assert torch.equal(tuned[name], copies[f"t {name}"])


def test_random_drops_exactly_the_share_and_depends_on_seed_and_name() -> None:
    base = {"a": torch.zeros(1000), "b": torch.zeros(1000)}
    tuned = {"a": torch.ones(1000), "b": torch.ones(1000)}
    first = dict(one_off_drop(base, tuned, 0.3, "random", seed=1))
    assert [int(t.sum()) for t in first.values()] == [700, 700]
    assert not torch.equal(first["a"], first["b"])
    again = dict(one_off_drop(dict(reversed(base.items())), tuned, 0.3, "random", seed=1))
    assert torch.equal(again["a"], first["a"])
    other = dict(one_off_drop(base, tuned, 0.3, "random", seed=2))
    assert not torch.equal(other["a"], first["a"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rescale_divides_kept_deltas_by_the_share_kept(strategy) -> None:
    base, tuned = pair(torch.float32)
    plain = dict(one_off_drop(base, tuned, 0.6, strategy))
    scaled = dict(one_off_drop(base, tuned, 0.6, strategy, rescale=True))
    for name in SHAPES:
        before, delta = base[name].double(), (plain[name].double() - base[name].double())
        torch.testing.assert_close(scaled[name].double(), before + delta / 0.4)
    assert torch.equal(scaled["steps"], tuned["steps"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"strategy": "salent"}, "did you mean 'salient'"),
        ({}, {"drop_ratio": 1.0}, r"\[0, 1\)"),
        ({"row": None}, {}, "tuned: no tensor 'row'"),
        ({"rows": torch.ones(7)}, {}, "base: no tensor 'rows'; did you mean 'row'"),
        ({"row": torch.ones(6)}, {}, r"row: .* found \(7,\) and \(6,\)"),
        ({"row": {"scale": 1}}, {}, "row: expected a dense tensor in memory, found {'scale': 1}"),
        ({"row": torch.ones(7).to_sparse()}, {}, "row: expected a dense tensor in memory"),
        ({"row": torch.ones(7, device="meta")}, {}, "row: expected a dense .* device='meta'"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(change, options, message) -> None:
    base, tuned = pair(torch.float32)
    tuned = {n: t for n, t in {**tuned, **change}.items() if t is not None}
    with pytest.raises(ValueError, match=message):
        one_off_drop(base, tuned, **{"drop_ratio": 0.5, **options})


def test_a_delta_that_is_not_finite_names_its_tensor() -> None:
    base, tuned = pair(torch.float32)
    tuned["row"][2] = torch.nan
    with pytest.raises(ValueError, match="row: its delta holds NaN"):
        dict(one_off_drop(base, tuned, 0.5))
