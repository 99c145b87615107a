"""What each rank of a sharded run holds, beside what `check_memory` expects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from sweeps.finetune.base_model import base_model
from sweeps.finetune.finetune_config import FinetuneConfig
from sweeps.finetune.memory_check import worker_need
from sweeps.finetune.model_facts import ModelError
from sweeps.finetune.process_group import Group
from sweeps.finetune.process_state import Cache
from sweeps.finetune.tokenized_data import load_training_data
from sweeps.finetune.trainer import Trainer
from tests.sweeps.finetune.processes import run_ranks
from tests.sweeps.finetune.tiny import config, save_world

CPU = torch.device("cpu")


def bytes_of(tensors: Iterable[Any]) -> int:
    """Of distinct storages, of this rank's parts."""
    storages = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """The reduced gradients, and those that FSDP has not reduced yet."""
    found = [p.grad for p in model.parameters() if p.grad is not None]
    for module in model.modules():
        state = getattr(module, "_get_fsdp_state", lambda: None)()
        group = state and state._fsdp_param_group
        for each in group.fsdp_params if group else ():
            found += [g for g in (each.unsharded_accumulated_grad,) if g is not None]
            if hasattr(each, "_unsharded_param") and each._unsharded_param.grad is not None:
                found.append(each._unsharded_param.grad)
    return found


def measure(run: FinetuneConfig, folder: Path) -> None:
    """On one rank: weights, moments, and the most gradients held within an update, in bytes."""
    group = Group.current()
    base = base_model(run, CPU, group)
    data = load_training_data(run.data, base.tokenizer)
    if base.fill is not None:
        assert all(p.is_meta for p in base.model.parameters())
    fill, filled = base.fill, list[int]()

    def block_by_block(module: torch.nn.Module) -> None:
        """Before a block gets its weights, those of all others are shards or not there."""
        whole = [
            p for p in base.model.parameters() if not p.is_meta and not isinstance(p, DTensor)
        ]
        assert not whole
        assert fill is not None
        fill(module)
        filled.append(sum(p.numel() for p in module.parameters()))

    watched_fill = None if fill is None else block_by_block
    trainer = Trainer(run, base.model, data, group, CPU, watched_fill)
    assert fill is None or len(filled) > 2
    most = 0
    reducing = trainer.parallel.reducing

    def watched(last: bool) -> Any:
        nonlocal most
        most = max(most, bytes_of(gradients_of(base.model)))  # of the micro-batches before
        return reducing(last)

    trainer.parallel.reducing = watched  # type: ignore[method-assign]
    optimizer = trainer._optimizer
    optimizer.register_step_pre_hook(lambda *_: watched(True) and None)
    trainer.update(0)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    found = [bytes_of(base.model.parameters()), most, bytes_of(moments)]
    need = worker_need(run, group.size, "cpu")
    assert need is not None
    expected = [need.weights, need.gradients, need.optimizer]
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps([found, expected]))


SHAPES = {"32": (32, 48, 2), "128": (128, 256, 3), "192": (192, 512, 6)}


def resized(world: Path, shape: tuple[int, int, int]) -> None:
    """Give the world's model another shape."""
    facts = LlamaConfig.from_pretrained(world / "model")
    facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers = shape
    facts.head_dim = shape[0] // facts.num_attention_heads
    LlamaForCausalLM(facts).save_pretrained(world / "model")


@pytest.mark.parametrize(
    "shape", ["128", *(pytest.param(s, marks=pytest.mark.slow) for s in ("32", "192"))]
)
@pytest.mark.parametrize("size", [2, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 4))])
@pytest.mark.parametrize(("interval", "reduce"), [(1, "auto"), (4, "auto"), (4, "micro_batch")])
def test_measured_bytes_are_the_expected_ones(
    tmp_path: Path, shape: str, size: int, interval: int, reduce: str
) -> None:
    world = save_world(tmp_path)
    resized(world, SHAPES[shape])
    run = config(
        world,
        parallel="fsdp",
        reduce_gradients=reduce,
        batch={"fixed": "global_batch", "global_batch": 16},
        accumulation_interval=interval,
    )
    run_ranks(measure, size, tmp_path / "group", run, tmp_path)
    for file in tmp_path.glob("*.json"):
        found, expected = json.loads(file.read_text())
        print(shape, size, interval, reduce, file.stem, found, expected)
        assert found == pytest.approx(expected, rel=0.1)


def fail_or_share(world: Path, folder: Path) -> None:
    """On one rank: a model that rank 0 alone can load, and one that nobody can."""
    group = Group.current()
    run = config(world, parallel="fsdp")
    cache = Cache()
    if not group.leads:
        error = AssertionError("a rank other than 0 loads the weights")
        patch("sweeps.finetune.base_model.load_model", side_effect=error).start()
    for _ in range(2):  # the second copies what rank 0 keeps
        base = base_model(run, CPU, group, cache)
        assert base.fill is not None
        base.fill(base.model)
        assert base.model.lm_head.weight is base.model.model.embed_tokens.weight
    (folder / f"{group.rank}.txt").write_text(
        str(sum(p.sum().item() for p in base.model.parameters()))
    )
    with pytest.raises(ModelError, match="cannot be loaded"):
        base_model(config(folder, parallel="fsdp"), CPU, group)


def test_every_rank_gets_the_weights_or_the_error_of_rank_0(tmp_path: Path) -> None:
    world = save_world(tmp_path)
    broken = tmp_path / "broken" / "model"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text((world / "model" / "config.json").read_text())
    run_ranks(fail_or_share, 2, tmp_path / "group", world, tmp_path / "broken")
    sums = [file.read_text() for file in (tmp_path / "broken").glob("*.txt")]
    whole = LlamaForCausalLM.from_pretrained(world / "model", dtype=torch.float32)
    assert sums == [str(sum(p.sum().item() for p in whole.parameters()))] * 2
