"""The masker on real optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from gmt_core import (
    SFT,
    GradientMask,
    GradientMasker,
    Method,
    NonFiniteGradientError,
    RandomMask,
)

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9),
    "adamw": partial(AdamW, lr=1e-2, weight_decay=0.1, foreach=False),
    "adamw_foreach": partial(AdamW, lr=1e-2, weight_decay=0.1, foreach=True),
    "adamw_fused": partial(AdamW, lr=1e-2, weight_decay=0.1, fused=True),
}
every_optimizer = pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)


def backward(model: nn.Module, step: int) -> None:
    """Two accumulated mini-batches that depend on the step alone."""
    dtype = next(model.parameters()).dtype
    for part in range(2):
        generator = torch.Generator().manual_seed(100 * step + part)
        x = torch.randn(12, 8, generator=generator).to(dtype)
        model(x).square().mean().backward()


def train(
    build: Callable[..., Optimizer],
    method: Method | None,
    steps: int,
    dtype: torch.dtype = torch.float32,
    statistics: bool = False,
) -> list[Tensor]:
    model = network(dtype)
    optimizer = build(model.parameters())
    if method is not None:
        GradientMasker(method, statistics_every=int(statistics)).attach(optimizer)
    for step in range(steps):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach() for p in model.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("statistics", [False, True])
def test_mask_ratio_zero_is_bit_identical_to_no_masker(build, dtype, statistics) -> None:
    plain = train(build, None, 20, dtype)
    for method in (SFT(), GradientMask(0.0), GradientMask(0.0, "global"), RandomMask(0.0, 1)):
        assert same(train(build, method, 20, dtype, statistics), plain)


@every_optimizer
@pytest.mark.parametrize("method", [GradientMask(0.7), RandomMask(0.7, 2)], ids=["gmt", "random"])
def test_equals_masking_by_hand_before_each_step(build, method: Method) -> None:
    model = network()
    optimizer = build(model.parameters())
    for step in range(5):
        backward(model, step)
        method.mask_([p.grad for p in model.parameters()], step)
        optimizer.step()
        optimizer.zero_grad()
    found = train(build, method, 5)
    assert same(found, [p.detach() for p in model.parameters()])
    assert same(train(build, method, 5, statistics=True), found)
    assert not same(found, train(build, None, 5))


def test_detach_and_attach() -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    masker = GradientMasker(GradientMask(0.9)).attach(optimizer)
    with pytest.raises(ValueError, match="already attached"):
        masker.attach(optimizer)
    masker.detach()
    masker.detach()
    backward(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.step()
    assert same(before, [p.grad for p in model.parameters()])
    assert masker.state_dict()["update"] == 0
    masker.attach(optimizer)
    optimizer.step()
    assert not same(before, [p.grad for p in model.parameters()])


def test_works_under_a_scheduler_and_leaves_frozen_parameters() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    masker = GradientMasker(GradientMask(0.5)).attach(optimizer)
    for step in range(3):
        backward(model, step)
        optimizer.step()
        scheduler.step()
    assert masker.state_dict()["update"] == 3
    assert torch.equal(model[0].weight, frozen)


def test_state_goes_on_where_it_was_taken() -> None:
    def build() -> tuple[nn.Module, Optimizer, GradientMasker]:
        model = network()
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        return model, optimizer, GradientMasker(RandomMask(0.6, 5)).attach(optimizer)

    def steps(model: nn.Module, optimizer: Optimizer, span: range) -> None:
        for step in span:
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer, masker = build()
    steps(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), masker.state_dict()))
    steps(model, optimizer, range(4, 8))
    other, other_optimizer, other_masker = build()
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    other_masker.load_state_dict(saved[2])
    steps(other, other_optimizer, range(4, 8))
    assert same(list(model.parameters()), list(other.parameters()))
    assert other_masker.state_dict()["update"] == 8


@pytest.mark.parametrize("state", [{}, {"update": -1}, {"update": "3"}, {"update": 1, "more": 2}])
def test_another_kind_of_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="masker state"):
        GradientMasker(SFT()).load_state_dict(state)


@pytest.mark.parametrize(
    "method",
    [GradientMask(0.4), GradientMask(0.4, "global"), RandomMask(0.4, 0)],
    ids=["tensor", "global", "random"],
)
def test_statistics_equal_a_count_by_hand(method: Method) -> None:
    first, second = nn.Parameter(torch.zeros(40, 5)), nn.Parameter(torch.zeros(33))
    first.grad = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    second.grad = torch.randn(33, generator=torch.Generator().manual_seed(1)) * 3
    second.grad[:10] = 0.0
    before = torch.cat([first.grad.flatten(), second.grad]).double()
    optimizer = SGD([first, second], lr=0.1)
    masker = GradientMasker(method, statistics_every=1).attach(optimizer)
    assert masker.statistics is None
    optimizer.step()
    after = torch.cat([first.grad.flatten(), second.grad]).double()
    found = masker.statistics
    assert found is not None
    assert found.nonzero_fraction == pytest.approx(223 / 233)
    energy = float(after.square().sum() / before.square().sum())
    assert found.energy_kept == pytest.approx(energy)
    expected = 233 - 93 if method.name == "gmt" and method.scope == "global" else 120 + 33 - 13
    assert found.kept_fraction == pytest.approx(expected / 233)
    metrics = found.metrics()
    common = {f"gmt/{name}" for name in ("kept_fraction", "nonzero_fraction", "energy_kept")}
    common.add("gmt/moved_fraction")
    if method.name == "random":
        assert set(metrics) == common
        return
    assert set(metrics) == common | {f"gmt/threshold_{k}" for k in ("min", "median", "max")}
    assert 0 < metrics["gmt/threshold_min"] <= metrics["gmt/threshold_median"]
    kept = [float(p.grad[p.grad != 0].abs().min()) for p in (first, second)]
    low, high = metrics["gmt/threshold_min"], metrics["gmt/threshold_max"]
    assert {low, high} == ({min(kept)} if low == high else set(kept))


def test_statistics_of_nothing_masked_and_of_zero_gradients() -> None:
    parameter = nn.Parameter(torch.zeros(10))
    optimizer = SGD([parameter], lr=0.1)
    masker = GradientMasker(GradientMask(0.5), statistics_every=1).attach(optimizer)
    parameter.grad = torch.zeros(10)
    optimizer.step()
    metrics = masker.statistics.metrics()
    assert (metrics["gmt/kept_fraction"], metrics["gmt/energy_kept"]) == (1.0, 1.0)  # all tie
    assert metrics["gmt/nonzero_fraction"] == 0.0
    parameter.grad = None
    optimizer.step()
    assert masker.statistics.kept_fraction == 1.0


@pytest.mark.parametrize("statistics", [False, True])
def test_non_finite_gradient_names_the_parameter_and_stops_the_step(statistics: bool) -> None:
    model = network()
    optimizer = AdamW(model.named_parameters(), lr=1e-2)
    masker = GradientMasker(GradientMask(0.5), statistics_every=int(statistics)).attach(optimizer)
    backward(model, 0)
    model[2].weight.grad[3] = torch.nan
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteGradientError, match=r"update 0, 2\.weight: .*NaN or infinity"):
        optimizer.step()
    assert same(before, list(model.parameters()))
    assert masker.state_dict()["update"] == 0


def test_non_finite_gradient_without_names_gives_the_place() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    backward(model, 0)
    model[3].bias.grad[1] = torch.inf
    with pytest.raises(NonFiniteGradientError, match=r"parameter 5 of group 0 \(4,\)"):
        optimizer.step()


def test_closure_is_refused() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    backward(model, 0)
    for call in (lambda: optimizer.step(lambda: 0.0), lambda: optimizer.step(closure=lambda: 0.0)):
        with pytest.raises(ValueError, match="no closure"):
            call()
    optimizer.step(None)


def test_sparse_gradient_is_refused() -> None:
    table = nn.Embedding(10, 4, sparse=True)
    optimizer = SGD(table.parameters(), lr=0.1)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("statistics", [0, 1])
def test_excluded_gradients_may_be_sparse_or_complex(dtype: torch.dtype, statistics: int) -> None:
    table, weight = nn.Parameter(torch.ones(10, 4, dtype=dtype)), nn.Parameter(torch.ones(10))
    sparse = dtype == torch.float32
    optimizer = SGD([("table", table), ("weight", weight)], lr=0.1)
    masker = GradientMasker(GradientMask(0.5), exclude="table", statistics_every=statistics)
    masker.attach(optimizer)
    for _ in range(2):
        gradient = torch.ones(10, 4, dtype=dtype)
        table.grad = gradient.to_sparse() if sparse else gradient.clone()
        weight.grad = torch.arange(10.0)
        optimizer.step()
        assert torch.equal(table.grad.to_dense() if sparse else table.grad, gradient)
        assert weight.grad.count_nonzero() == 5


@pytest.mark.parametrize("method", [SFT(), GradientMask(0.0), GradientMask({"weight": 0.5})])
@pytest.mark.parametrize("statistics", [0, 1])
def test_what_is_kept_as_a_whole_may_be_of_any_kind(method: Method, statistics: int) -> None:
    parts = [torch.ones(4, 2, dtype=torch.complex64), torch.ones(4, 9)[:, ::3]]
    for gradient in [*parts, parts[1].contiguous().to_sparse(), torch.ones(()).expand(4, 2)]:
        other = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        weight = nn.Parameter(torch.ones(10))
        other.grad, weight.grad = gradient, torch.arange(10.0)
        optimizer = SGD([("other", other), ("weight", weight)], lr=1.0)
        masker = GradientMasker(method, statistics_every=statistics).attach(optimizer)
        optimizer.step()
        assert torch.equal(-other, gradient.to_dense())
        assert weight.grad.count_nonzero() == (5 if method.needs_names else 9)
        assert masker.statistics is None or masker.statistics.moved_fraction > 0.4


@pytest.mark.parametrize("mode", ["gradient", "update", "state"])
@pytest.mark.parametrize("saliency", ["gradient", "product"])
def test_a_weight_may_be_a_slice_of_a_larger_tensor(saliency, mode) -> None:
    draw, found = torch.Generator().manual_seed(0), []
    table, gradients = torch.randn(6, 8, generator=draw), torch.randn(3, 6, 4, generator=draw)
    for start in (table[:, 2:6], table[:, 2:6].clone()):
        weight = nn.Parameter(start)
        optimizer = SGD([weight], lr=1.0, momentum=0.9)
        method = GradientMask(0.75, saliency=saliency)
        masker = GradientMasker(method, mode=mode, statistics_every=1).attach(optimizer)
        for gradient in gradients.clone():
            weight.grad = gradient
            optimizer.step()
        found.append((weight, weight.grad, masker.statistics.metrics()))
    (sliced, *rest), (whole, *expected) = found
    assert torch.equal(sliced, whole) and torch.equal(rest[0], expected[0])
    assert rest[1] == expected[1] and rest[1]["gmt/kept_fraction"] == 0.25


@pytest.mark.parametrize("method", [GradientMask(0.5), RandomMask(0.5)], ids=["gmt", "random"])
def test_what_cannot_be_masked_is_named_and_nothing_is_changed(method: Method) -> None:
    first = nn.Parameter(torch.ones(10))
    others = {
        "a dense gradient": torch.ones(4, 2).to_sparse(),
        "a real gradient": torch.ones(4, 2, dtype=torch.complex64),
        "a dense block of memory": torch.ones(4, 9)[:, ::3],
    }
    for message, gradient in others.items():
        second = nn.Parameter(torch.ones(gradient.shape, dtype=gradient.dtype))
        second.grad, first.grad = gradient, torch.ones(10)
        optimizer = SGD([("first", first), ("second", second)], lr=0.1)
        masker = GradientMasker(method).attach(optimizer)
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert torch.equal(first.grad, torch.ones(10))
        assert masker.state_dict()["update"] == 0
        with pytest.raises(ValueError, match=message):
            method.mask_([first.grad, gradient], 0)
        assert torch.equal(first.grad, torch.ones(10))


def test_the_loss_scale_is_taken_out_of_thresholds() -> None:
    weight = nn.Parameter(torch.ones(10))
    optimizer = AdamW([weight], lr=0.1, fused=True)
    masker = GradientMasker(GradientMask(0.5), statistics_every=1).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(weight.dot(torch.arange(10.0))).backward()
    scaler.step(optimizer)
    assert masker.statistics is not None
    assert masker.statistics.threshold_median == 5.0


def test_names_are_needed_only_where_they_are_read() -> None:
    model, temperature = network(), nn.Parameter(torch.ones(()))
    optimizer = SGD([*model.parameters(), temperature], lr=0.1)
    GradientMasker(GradientMask(0.5)).attach(optimizer, model.named_parameters()).detach()
    reading = GradientMasker(GradientMask(0.5), exclude="temperature")
    with pytest.raises(
        ValueError, match=r"exclude reads the names .* parameter 6 of group 0 \(\)"
    ):
        reading.attach(optimizer, model.named_parameters())
    reading.attach(optimizer, [*model.named_parameters(), ("temperature", temperature)])


def test_kinds_of_modules_that_peft_adapts() -> None:
    inside = "base_model.model.model.layers.0.self_attn.q_proj"
    names = [
        f"{inside}.lora_A.default.weight",
        f"{inside}.lora_magnitude_vector.default.weight",
        f"{inside}.base_layer.weight",
        "base_model.model.model.embed_tokens.lora_embedding_B.default",
        "base_model.model.lm_head.modules_to_save.default.weight",
        "model.layers.1.mlp.up_proj.weight",
        "temperature",
    ]
    weights = [nn.Parameter(torch.ones(2)) for _ in names]
    for weight in weights:
        weight.grad = torch.ones(2)
    unnamed = nn.Parameter(torch.ones(2))
    unnamed.grad = torch.ones(2)
    optimizer = SGD([*weights, unnamed], lr=0.1)
    masker = GradientMasker(SFT(), statistics_every=1)
    masker.attach(optimizer, zip(names, weights, strict=True))
    optimizer.step()
    kinds = {"q_proj", "embed_tokens", "lm_head", "up_proj", "temperature"}
    assert set(masker.statistics.kept_by_kind) == kinds


def test_sharded_parameters_are_refused_at_attach_time() -> None:
    class FlatParameter(nn.Parameter):
        """Has the name that FSDP1 gives its parameters."""

    optimizer = SGD([FlatParameter(torch.ones(3))], lr=0.1)
    with pytest.raises(ValueError, match="FSDP1"):
        GradientMasker(GradientMask(0.5)).attach(optimizer)


def test_excluded_parameters_keep_their_gradient() -> None:
    model = network()
    optimizer = AdamW(model.named_parameters(), lr=1e-2)
    GradientMasker(GradientMask(0.9, "global"), exclude=["*.bias", "2.*"]).attach(optimizer)
    backward(model, 0)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    kept = {name for name, p in model.named_parameters() if torch.equal(p.grad, before[name])}
    assert kept == {"0.bias", "2.weight", "2.bias", "3.bias"}
    masked = torch.cat([model[0].weight.grad.flatten(), model[3].weight.grad.flatten()])
    assert int(masked.count_nonzero()) == 192 - int(0.9 * 192)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["*.biass"], r"exclude: no parameter is called '\*\.biass'; did you mean '.\.bias'"),
        ("lm_head*", r"no parameter is called 'lm_head\*'; there is 0\.weight, 0\.bias"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused(exclude, message: str) -> None:
    optimizer = AdamW(network().named_parameters(), lr=1e-2)
    with pytest.raises(ValueError, match=message):
        GradientMasker(GradientMask(0.5), exclude=exclude).attach(optimizer)


def test_exclude_asks_for_names_and_takes_them_without_wrappers() -> None:
    model = network()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    masker = GradientMasker(GradientMask(0.5), exclude="0.weight")
    with pytest.raises(ValueError, match=r"exclude reads the names.*named_parameters\(\)"):
        masker.attach(optimizer)
    wrapped = torch.compile(model, backend="eager")
    masker.attach(optimizer, ((f"module.{n}", p) for n, p in wrapped.named_parameters()))
    backward(model, 0)
    optimizer.step()
    assert bool((model[0].weight.grad != 0).all())
    assert not bool((model[3].weight.grad != 0).all())


def test_parameters_that_change_after_attach_are_noticed() -> None:
    model = network()
    optimizer = SGD(model[0].parameters(), lr=0.1)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    optimizer.add_param_group({"params": list(model[3].parameters())})
    backward(model, 0)
    told = r"changed after attach .*masker\.detach\(\) and masker\.attach\(optimizer, model\.named"
    with pytest.raises(ValueError, match=told):
        optimizer.step()


def test_state_of_another_seed_is_refused() -> None:
    state = GradientMasker(RandomMask(0.5, seed=3)).state_dict()
    with pytest.raises(ValueError, match="has seed 4, and the state was taken with seed 3"):
        GradientMasker(RandomMask(0.5, seed=4)).load_state_dict(state)
    GradientMasker(RandomMask(0.5, seed=4)).load_state_dict({"update": 7})  # of before seeds


class DeepSpeedZeroOptimizer:
    """Has the name of DeepSpeed's, which is no torch optimizer."""


def test_what_cannot_be_right_is_refused_at_attach() -> None:
    masker = GradientMasker(GradientMask(0.5))
    with pytest.raises(ValueError, match=r"DeepSpeed ZeRO partitions.*fully_shard"):
        masker.attach(DeepSpeedZeroOptimizer())
    wrapper = SGD(network().parameters(), lr=0.1)
    wrapper.optimizer = DeepSpeedZeroOptimizer()  # as Accelerate wraps it
    with pytest.raises(ValueError, match="DeepSpeed ZeRO"):
        masker.attach(wrapper)
    model = network()
    model[0].weight.ds_id = 0
    with pytest.raises(ValueError, match=r"0\.weight: DeepSpeed ZeRO-3"):
        masker.attach(SGD(model.named_parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"expected a torch\.optim\.Optimizer, found Sequential"):
        masker.attach(model)
    masker.attach(SGD(network().parameters(), lr=0.1))  # nothing was attached before
