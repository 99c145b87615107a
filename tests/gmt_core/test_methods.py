"""One suite that every method passes, against a naive reference; then what each adds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gmt_core import (
    SFT,
    GradientMask,
    Method,
    NonFiniteGradientError,
    RandomMask,
    build_method,
    kept_count,
)
from gmt_core.permutation import Permutation
from tests.gmt_core.reference import naive_drops

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(0,), (1,), (), (7,), (3, 5), (2, 3, 4), (0, 4), (300, 700)]
RATIOS = (0.0, 0.1, 0.5, 0.9, 0.99)
METHODS = [
    pytest.param(lambda r: SFT(), 0.0, id="sft"),
    *(pytest.param(GradientMask, r, id=f"gmt-{r}") for r in RATIOS),
    *(pytest.param(lambda r: GradientMask(r, "global"), r, id=f"gmt-global-{r}") for r in RATIOS),
    *(pytest.param(lambda r: RandomMask(r, seed=3), r, id=f"random-{r}") for r in RATIOS),
]


def gradients_of(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Every shape, with ties and exact zeros among the values."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for shape in SHAPES:
        x = torch.randn(shape, generator=generator)
        x = torch.where(torch.rand(shape, generator=generator) < 0.2, 0.0, x)
        x = torch.where(torch.rand(shape, generator=generator) < 0.2, -0.5, x)
        found.append(x.to(dtype))
    return found


def naive_threshold(x: Tensor, mask_ratio: float) -> Tensor:
    kept = kept_count(x.numel(), mask_ratio)
    return x.abs().flatten().sort(descending=True).values[kept - 1]


def naive_gmt(gradients: list[Tensor], mask_ratio: float, scope: str) -> list[Tensor]:
    pools = [torch.cat([g.flatten() for g in gradients])] * len(gradients)
    if scope == "tensor":
        pools = gradients
    return [
        torch.where(g.abs() >= naive_threshold(pool, mask_ratio), g, 0) if g.numel() else g
        for g, pool in zip(gradients, pools, strict=True)
    ]


def masked(method: Method, gradients: list[Tensor], update: int = 0) -> list[Tensor]:
    copies = [g.clone() for g in gradients]
    method.mask_(copies, update)
    return copies


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("build", "ratio"), METHODS)
class TestConformance:
    def test_kept_elements_are_untouched_and_the_rest_zero(self, build, ratio, dtype) -> None:
        gradients = gradients_of(dtype)
        for before, after in zip(gradients, masked(build(ratio), gradients), strict=True):
            assert after.dtype == dtype and after.shape == before.shape
            assert bool(((after == before) | (after == 0)).all())

    def test_agrees_with_the_reference(self, build, ratio, dtype) -> None:
        gradients, method = gradients_of(dtype), build(ratio)
        found = masked(method, gradients)
        if isinstance(method, GradientMask):
            assert same(found, naive_gmt(gradients, ratio, method.scope))
        elif isinstance(method, RandomMask):
            ones = [torch.ones_like(g) for g in gradients]
            kept = [int(m.count_nonzero()) for m in masked(method, ones)]
            assert kept == [kept_count(g.numel(), ratio) for g in gradients]
        else:
            assert same(found, gradients)

    def test_same_call_same_mask(self, build, ratio, dtype) -> None:
        gradients = gradients_of(dtype)
        assert same(masked(build(ratio), gradients, 5), masked(build(ratio), gradients, 5))

    def test_ratio_zero_touches_nothing(self, build, ratio, dtype) -> None:
        gradients = gradients_of(dtype)
        gradients[3][0] = math.nan  # not even read
        after = masked(build(0.0), gradients)
        pairs = zip(gradients, after, strict=True)
        integer = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
        assert all(torch.equal(a.view(integer), b.view(integer)) for a, b in pairs)

    def test_states_itself(self, build, ratio, dtype) -> None:
        method = build(ratio)
        assert method.name in ("sft", "gmt", "random")
        assert method.mask_ratio == ratio

    def test_without_gradients(self, build, ratio, dtype) -> None:
        build(ratio).mask_([], 0)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-30, -3.5]), min_size=1),
    ratio=st.integers(0, 999).map(lambda n: n / 1000),
)
def test_ties_and_zeros(values: list[float], ratio: float) -> None:
    gradient = torch.tensor(values)
    (after,) = masked(GradientMask(ratio), [gradient])
    assert same([after], naive_gmt([gradient], ratio, "tensor"))
    assert int((after != 0).sum()) >= min(
        kept_count(len(values), ratio), int((gradient != 0).sum())
    )


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_gradient_is_refused_and_nothing_is_masked(bad: float, scope: str) -> None:
    gradients = gradients_of(torch.float32)
    gradients[4][1, 1] = bad
    copies = [g.clone() for g in gradients]
    with pytest.raises(NonFiniteGradientError, match="NaN or infinity") as caught:
        GradientMask(0.5, scope).mask_(copies, 0)
    assert caught.value.index == (4 if scope == "tensor" else None)
    assert all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in zip(gradients, copies, strict=True)
    )


SALIENCIES = ("gradient", "product", "weight", "gradient_over_weight")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("saliency", SALIENCIES)
def test_saliencies_agree_with_a_full_sort(saliency: str, scope: str, dtype) -> None:
    """Weights of zero and of every size among them."""
    gradients = gradients_of(dtype)
    draw = torch.Generator().manual_seed(9)
    weights = [torch.randn(g.shape, generator=draw) for g in gradients]
    weights = [torch.where(w.abs() < 0.3, w * 1e-4, w).to(dtype) for w in weights]
    weights[5][0] = 0.0
    for ratio in (0.3, 0.9):
        method = GradientMask(ratio, scope, saliency=saliency)
        drops = naive_drops(method, gradients[1:6], weights[1:6], [], 0)
        after = [g.clone() for g in gradients[1:6]]
        method.mask_(after, 0, weights=weights[1:6])
        pairs = zip(gradients[1:6], drops, strict=True)
        assert same(after, [torch.where(drop, 0, g) for g, drop in pairs])


def test_weights_of_zero_rank_by_their_gradients() -> None:
    method = GradientMask(0.5, saliency="gradient_over_weight")
    for weights in (torch.zeros(10), torch.arange(10.0) * 1e-41, torch.full((10,), 1e-3).half()):
        gradient = (torch.arange(10.0) / 10).to(weights.dtype)
        method.mask_([gradient], 0, weights=[weights])
        assert gradient.nonzero().squeeze(1).tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("saliency", SALIENCIES)
def test_saliencies_find_what_is_not_finite_and_need_the_weights(saliency: str) -> None:
    method, gradient = GradientMask(0.5, saliency=saliency), torch.ones(10)
    if saliency != "gradient":
        with pytest.raises(ValueError, match="gradient 0: this saliency needs the weights"):
            method.mask_([gradient], 0)
    if saliency != "weight":  # which does not read gradients
        for bad in (math.nan, math.inf, -math.inf):
            gradient[3] = bad
            with pytest.raises(NonFiniteGradientError):
                method.mask_([gradient], 0, weights=[torch.zeros(10)])


def test_transposed_gradient_is_masked_in_place() -> None:
    base = torch.randn(6, 11, generator=torch.Generator().manual_seed(0))
    expected = naive_gmt([base.t()], 0.7, "tensor")[0]
    GradientMask(0.7).mask_([base.t()], 0)
    assert torch.equal(base.t(), expected)


def test_weights_may_have_another_memory_layout() -> None:
    draw = torch.Generator().manual_seed(0)
    gradient, weight = torch.randn(2, 6, 11, generator=draw).unbind()
    expected = gradient.clone()
    GradientMask(0.7, saliency="product").mask_([expected], 0, weights=[weight])
    turned = weight.t().contiguous().t()
    GradientMask(0.7, saliency="product").mask_([gradient], 0, weights=[turned])
    assert torch.equal(gradient, expected)


def test_random_mask_depends_on_seed_update_and_place_only() -> None:
    first, second = torch.ones(1000), torch.randn(1000)
    masks = {
        (seed, update, place): tuple(
            masked(RandomMask(0.5, seed), [first] * 3, update)[place].tolist()
        )
        for seed in (0, 1)
        for update in (0, 1)
        for place in (0, 2)
    }
    assert len(set(masks.values())) == len(masks)
    (of_ones,), (of_values,) = (masked(RandomMask(0.5, 0), [g], 7) for g in (first, second))
    assert torch.equal(of_ones != 0, of_values != 0)


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 65, 5000])
def test_permutation_is_a_bijection_that_any_part_computes_alone(size: int) -> None:
    permutation, cpu = Permutation.of(size, 1, 2, 3), torch.device("cpu")
    whole = permutation(0, size, cpu)
    assert torch.equal(whole.sort().values, torch.arange(size))
    parts = [permutation(0, size // 3, cpu), permutation(size // 3, size, cpu)]
    assert torch.equal(torch.cat(parts), whole)


def test_random_masks_have_no_favourites() -> None:
    size, kept, updates = 50, 20, 2000
    counts, together = torch.zeros(size), torch.zeros(size, size)
    for update in range(updates):
        drawn = Permutation.of(size, 0, update, 0)(0, size, torch.device("cpu")) < kept
        counts += drawn
        together += drawn.float().outer(drawn.float())
    share = kept / size
    assert float((counts / updates - share).abs().max()) < 5 * math.sqrt(share * 0.6 / updates)
    pair = share * (kept - 1) / (size - 1)
    apart = ~torch.eye(size, dtype=torch.bool)
    worst = float((together[apart] / updates - pair).abs().max())
    assert worst < 5.5 * math.sqrt(pair * (1 - pair) / updates)


def test_build_method() -> None:
    assert isinstance(build_method("sft", 0.0), SFT)
    built = build_method("gmt", 0.2, scope="global")
    assert isinstance(built, GradientMask) and built.scope == "global"
    assert isinstance(build_method("random", 0.2, seed=4), RandomMask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gmtt", 0.1), "did you mean 'gmt'"),
        (("lora", 0.1), "expected one of gmt, sft, random, hft, found 'lora'$"),
        (("gmt", 1.0), r"\[0, 1\)"),
        (("random", -0.1), r"\[0, 1\)"),
        (("sft", 0.3), "masks nothing"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_method(*arguments)


def test_unknown_scope() -> None:
    with pytest.raises(ValueError, match="tensor, global, found 'layer'"):
        GradientMask(0.1, "layer")  # type: ignore[arg-type]
