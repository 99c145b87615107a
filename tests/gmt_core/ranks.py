"""What the ranks of the distributed tests do: each check runs on all of them, over gloo."""

from __future__ import annotations

import json
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW

from gmt_core import GradientMask, GradientMasker, RandomMask
from gmt_core import layout as collectives
from tests.gmt_core.reference import METHODS as ALL_METHODS
from tests.gmt_core.reference import MOMENTS, NaiveMasks, naive_drops, naive_step

WIDTH, HIDDEN = 10, 28  # rows and columns that do not divide evenly, and a bias of one element
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
METHODS = {name: build for name, build in ALL_METHODS.items() if not build().needs_names}


class Net(nn.Module):
    """Rows of very unequal size, so that a mask of one's own shard is far from the whole's."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(WIDTH, hidden)
        self.down = nn.Linear(hidden, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.one = nn.Linear(WIDTH, 1)
        with torch.no_grad():
            self.up.weight *= torch.logspace(-2, 0.5, hidden)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.norm(self.down(torch.tanh(self.up(x)))))


def ddp(net: Net) -> nn.Module:
    return DistributedDataParallel(net)


def fsdp(net: Net, mesh: DeviceMesh | None = None) -> nn.Module:
    for part in (net.up, net.down, net.norm):
        fully_shard(part, mesh=mesh)
    return fully_shard(net, mesh=mesh)


def tensor_parallel(net: Net, mesh: DeviceMesh) -> nn.Module:
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel(), "one": RowwiseParallel()}
    return parallelize_module(net, mesh, plan)


def columns(net: Net) -> nn.Module:
    """FSDP2 cuts columns where they divide evenly."""
    ranks = dist.get_world_size()

    def even(p: Tensor) -> bool:
        return p.dim() == 2 and p.shape[1] % ranks == 0

    return fully_shard(net, shard_placement_fn=lambda p: Shard(int(even(p))))


def shardings(ranks: int) -> dict[str, Callable[[Net], nn.Module]]:
    """Every way to divide the model among this many ranks."""
    flat = init_device_mesh("cpu", (ranks,))
    found = {
        "DDP": ddp,
        "FSDP2": fsdp,
        "FSDP2 by columns": columns,
        "TP": lambda net: tensor_parallel(net, flat),
    }
    if ranks == 4:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        found["FSDP2 x TP"] = lambda net: fsdp(tensor_parallel(net, grid["model"]), grid["data"])
        found["HSDP"] = lambda net: fsdp(net, grid)
        for name in ("DDP", "FSDP2 by columns", "TP"):  # as with two ranks
            del found[name]
    return found


def whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().clone()


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """A whole gradient as the gradient of a sharded parameter."""
    if not isinstance(like, DTensor):
        return full.clone()
    return distribute_tensor(full, like.device_mesh, like.placements)


def gradients(net: Net, dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Equal on all ranks: skewed rows, ties and exact zeros."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for parameter in net.parameters():
        x = torch.randn(parameter.shape, generator=draw)
        x = x * torch.logspace(-3, 1, x.shape[0]).view(-1, *[1] * (x.dim() - 1))
        x = torch.where(torch.rand(x.shape, generator=draw) < 0.2, 0.0, x)
        x = torch.where(torch.rand(x.shape, generator=draw) < 0.2, -0.5, x)
        found.append(x.to(dtype))
    return found


def check_masks(build: Callable[[Net], nn.Module], dtype: torch.dtype) -> None:
    """Each method's mask of the sharded gradient is the mask of the whole one, bit for bit."""
    model = build(Net().to(dtype))
    weights = [p.detach().clone() for p in Net().to(dtype).parameters()]
    for name, method in METHODS.items():
        optimizer = SGD(model.parameters(), lr=0.0)
        GradientMasker(method()).attach(optimizer)
        naive = NaiveMasks(method())
        for update in range(3):
            full = gradients(Net(), dtype, update)
            give(model, full)
            drops = naive.drops(full, weights, [], update)
            optimizer.step()
            for parameter, gradient, drop in zip(model.parameters(), full, drops, strict=True):
                expected = torch.where(drop, 0, gradient)
                assert torch.equal(whole(parameter.grad), expected), (name, gradient.shape)


def give(model: nn.Module, full: list[Tensor]) -> None:
    for parameter, gradient in zip(model.parameters(), full, strict=True):
        parameter.grad = part_of(gradient, parameter)


def check_modes(build: Callable[[Net], nn.Module]) -> None:
    """Parameters and moments of sharded AdamW, as the reference leaves those of a whole one.

    The statistics are those of one process too.
    """
    for mode in ("gradient", "update", "state"):
        for name in ("global", "random"):
            method = METHODS[name]()
            model, single, net = build(Net()), Net(), Net()
            made = [
                AdamW(m.named_parameters(), lr=1e-2, weight_decay=0.1)
                for m in (model, single, net)
            ]
            maskers = [
                GradientMasker(method, mode=mode, statistics_every=1).attach(optimizer)
                for optimizer in made[:2]
            ]
            for update in range(2):
                full = gradients(Net(), torch.float32, update)
                for each in (model, single, net):
                    give(each, full)
                drops = naive_drops(method, full, list(net.parameters()), [], update)
                naive_step(made[2], list(net.parameters()), drops, mode)
                for optimizer in made[:2]:
                    optimizer.step()
                first, second = (masker.statistics for masker in maskers)
                assert first.metrics().keys() == second.metrics().keys()
                for key, value in first.metrics(kinds=True).items():
                    assert abs(value - second.metrics(kinds=True)[key]) < 1e-6, (name, key)
            for ours, theirs in zip(model.parameters(), net.parameters(), strict=True):
                torch.testing.assert_close(whole(ours), theirs.detach(), rtol=1e-5, atol=1e-7)
                for moment in MOMENTS[1:]:
                    found = whole(made[0].state[ours][moment])
                    expected = made[2].state[theirs][moment]
                    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def backward(model: nn.Module, step: int) -> None:
    """Four rows on each rank, which depend on the step."""
    draw = torch.Generator().manual_seed(10 * step + dist.get_rank())
    model(torch.randn(4, WIDTH, generator=draw)).square().mean().backward()


def check_training(build: Callable[[Net], nn.Module]) -> None:
    """Real gradients: what AdamW sees is the mask of the gathered gradient."""
    model, method = build(Net()), GradientMask(0.8)
    optimizer = AdamW(model.named_parameters(), lr=1e-2)
    GradientMasker(method).attach(optimizer)
    for step in range(3):
        backward(model, step)
        expected = [whole(p.grad) for p in model.parameters()]
        method.mask_(expected, step)
        optimizer.step()
        for parameter, masked in zip(model.parameters(), expected, strict=True):
            assert torch.equal(whole(parameter.grad), masked)
        optimizer.zero_grad()


def check_held_masks(build: Callable[[Net], nn.Module], full: bool) -> None:
    """A run that resumes from a saved state goes on with the masks that were drawn before it."""
    options = StateDictOptions(full_state_dict=full)
    runs = []
    for _ in range(3):
        model = build(Net())
        optimizer = AdamW(model.named_parameters(), lr=1e-2)
        masker = GradientMasker(GradientMask(0.8, hold="training"), mode="state")
        runs.append((model, optimizer, masker.attach(optimizer)))

    def train(run: int, steps: range) -> list[Tensor]:
        model, optimizer, _ = runs[run]
        for step in steps:
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
        return [whole(p) for p in model.parameters()]

    end = train(0, range(5))
    train(1, range(3))
    (model, optimizer, masker), (other, its_optimizer, its_masker) = runs[1:]
    states = get_state_dict(model, optimizer, options=options)
    set_state_dict(
        other,
        its_optimizer,
        model_state_dict=states[0],
        optim_state_dict=states[1],
        options=options,
    )
    its_masker.load_state_dict(masker.state_dict())
    assert all(map(torch.equal, end, train(2, range(3, 5))))


def check_ratio_zero(build: Callable[[Net], nn.Module]) -> None:
    """Twenty AdamW steps with mask ratio 0 end bit for bit where steps without a masker end."""
    ends = []
    for method in (None, GradientMask(0.0), RandomMask(0.0)):
        model = build(Net())
        optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        if method is not None:
            GradientMasker(method).attach(optimizer)
        for step in range(20):
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
        ends.append([whole(p) for p in model.parameters()])
    for end in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0], end, strict=True))
    assert not torch.equal(ends[0][0], Net().up.weight)


def check_bytes(build: Callable[[Net], nn.Module], dtype: torch.dtype, groups: int) -> None:
    """Counts alone travel: at most 128 KiB for each tensor, in three collectives at most."""
    model = build(Net().to(dtype))
    optimizer = SGD(model.parameters(), lr=0.0)
    GradientMasker(GradientMask(0.5), statistics_every=0).attach(optimizer)
    give(model, gradients(Net(), dtype, 0))
    sent: list[int] = []
    reduce = collectives.all_reduce

    def counting(table: Tensor, group: object) -> None:
        sent.append(table.numel() * table.itemsize)
        reduce(table, group)

    collectives.all_reduce = counting
    try:
        with CommDebugMode() as communication:
            optimizer.step()
    finally:
        collectives.all_reduce = reduce
    assert communication.get_total_counts() == len(sent) <= 3 * groups
    assert 0 < sum(sent) <= 128 * 1024 * len(list(model.parameters()))


def check_not_finite(build: Callable[[Net], nn.Module]) -> None:
    """One infinite element stops every rank, with the parameter's name."""
    model = build(Net())
    optimizer = SGD(model.named_parameters(), lr=0.1)
    GradientMasker(GradientMask(0.5)).attach(optimizer)
    full = gradients(Net(), torch.float32, 0)
    full[0][0, 3] = torch.inf  # on the first rank
    give(model, full)
    message = ""
    try:
        optimizer.step()
    except ValueError as error:
        message = str(error)
    assert "up.weight" in message and "NaN or infinity" in message, message


def check_fsdp1(use_orig_params: bool) -> None:
    """FSDP1 is refused, and told what to use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FullyShardedDataParallel(
            Net(), use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
    message = ""
    try:
        GradientMasker(GradientMask(0.5)).attach(SGD(model.parameters(), lr=0.1))
    except ValueError as error:
        message = str(error)
    assert "FSDP1" in message and "fully_shard" in message, message


def checks(ranks: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by its name."""
    for name, build in shardings(ranks).items():
        for dtype in DTYPES if ranks == 2 else DTYPES[:2]:
            yield f"masks {name} {dtype}", lambda b=build, d=dtype: check_masks(b, d)
        yield f"modes {name}", lambda b=build: check_modes(b)
        if name not in ("TP", "FSDP2 x TP"):
            yield f"training {name}", lambda b=build: check_training(b)
            for whole_state in (False, True):
                yield (
                    f"held masks {name} full={whole_state}",
                    lambda b=build, w=whole_state: check_held_masks(b, w),
                )
        if name.startswith("FSDP2") and name != "FSDP2 x TP":
            yield f"ratio zero {name}", lambda b=build: check_ratio_zero(b)
            yield f"not finite {name}", lambda b=build: check_not_finite(b)
        if name != "DDP":
            groups = 4 if name == "FSDP2 x TP" else 1
            for dtype in DTYPES:
                yield (
                    f"bytes {name} {dtype}",
                    lambda b=build, d=dtype, g=groups: check_bytes(b, d, g),
                )
    if ranks == 2:
        for flat in (True, False):
            yield f"FSDP1 use_orig_params={not flat}", lambda f=flat: check_fsdp1(not f)


def work(rank: int, ranks: int, folder: str) -> None:
    """Run all checks on one rank and write what failed, by name."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks
    )
    failed = {}
    for name, check in checks(ranks):
        try:
            check()
            failed[name] = ""
        except Exception:  # reported by the test, rank by rank
            failed[name] = traceback.format_exc()
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(failed))
    dist.destroy_process_group()


def run(ranks: int, folder: Path) -> dict[str, str]:
    """What failed in each check, on any rank; "" where nothing did."""
    start_processes(work, (ranks, str(folder)), nprocs=ranks, start_method="spawn")
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    return {name: "".join(report[name] for report in reports) for name in reports[0]}
