"""Canaries: the names that libraries do not promise to keep exist and do what we use them for.

`make canaries` runs them with the newest releases; each fails with one sentence.
"""

from __future__ import annotations

import functools
import inspect
import mmap
import os
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

LLAMA = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def canary(library: str, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Whatever fails in the test is told as a sentence with the library, its version, the name."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def told(*arguments: Any, **named: Any) -> None:
            try:
                test(*arguments, **named)
            except Exception as error:
                said = str(error).partition("\n")[0]
                pytest.fail(
                    f"{library} {metadata.version(library)}: {name} is gone, or does no longer "
                    f"what its compat module needs ({type(error).__name__}: {said})",
                    pytrace=False,
                )

        return told

    return mark


def test_a_canary_names_the_library_its_version_and_the_name() -> None:
    @canary("pytest", "pytest._gone")
    def dead() -> None:
        _ = pytest._gone  # type: ignore[attr-defined]

    with pytest.raises(pytest.fail.Exception, match=rf"pytest {pytest.__version__}: pytest._gone"):
        dead()


@canary("torch", "torch._foreach_add_ or torch._foreach_sub_")
def test_torch_adds_to_many_tensors_at_once() -> None:
    import torch

    from gmt_core._compat import add_each, subtract_each

    pools = (torch.ones(2, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
    add_each(pools, [1, 2])
    assert [pool.tolist() for pool in pools] == [[2, 2], [3, 3, 3]]
    subtract_each(pools, [2, 3])
    assert [pool.tolist() for pool in pools] == [[0, 0], [0, 0, 0]]


@canary("torch", "the mark of FSDP1 on parameters, _fsdp_flattened")
def test_torch_marks_what_fsdp1_flattened() -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.fsdp import FullyShardedDataParallel

    from gmt_core._compat import is_flattened

    assert not any(map(is_flattened, torch.nn.Linear(2, 2).parameters()))
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for original in (True, False):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # one rank has nothing to shard
                wrapped = FullyShardedDataParallel(
                    torch.nn.Linear(2, 2), device_id=torch.device("cpu"), use_orig_params=original
                )
            assert all(map(is_flattened, wrapped.parameters())), f"use_orig_params={original}"
    finally:
        dist.destroy_process_group()


@canary("torch", "torch.distributed.tensor.placement_types._StridedShard")
def test_torch_has_strided_shards() -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    from gmt_core._compat import cut_dimension, split_factor

    strided = _StridedShard(1, split_factor=2)
    placements = (Replicate(), Shard(0), strided)
    assert [cut_dimension(placement) for placement in placements] == [None, 0, 1]
    assert [split_factor(placement) for placement in placements] == [None, None, 2]
    with pytest.raises(ValueError, match="expected sharded or replicated"):
        cut_dimension(Partial())


@canary("torch", "the verdict of torch.amp.GradScaler on fused optimizers, found_inf")
def test_torch_tells_fused_optimizers_of_an_infinity() -> None:
    import torch

    from gmt_core._compat import skipped_by_scaler

    weight, verdicts = torch.nn.Parameter(torch.ones(1)), list[bool]()
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    optimizer.register_step_pre_hook(lambda fused, *_: verdicts.append(skipped_by_scaler(fused)))
    scaler = torch.amp.GradScaler("cpu")
    for gradient in (1.0, torch.inf):
        weight.grad = scaler.scale(torch.tensor([gradient]))
        scaler.step(optimizer)
        scaler.update()
    optimizer.step()
    assert verdicts == [False, True, False]


@canary("torch", "the scale of torch.amp.GradScaler on fused optimizers, grad_scale")
def test_torch_tells_fused_optimizers_of_the_scale() -> None:
    import torch

    from gmt_core._compat import loss_scale

    weight, scales = torch.nn.Parameter(torch.ones(1)), list[float]()
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=True)
    optimizer.register_step_post_hook(lambda fused, *_: scales.append(loss_scale(fused)))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight.grad = scaler.scale(torch.ones(1))
    scaler.step(optimizer)
    optimizer.step()
    assert scales == [8.0, 1.0]


@canary("torch", "how often a tensor was changed in place, _version")
def test_torch_counts_changes_of_a_tensor() -> None:
    import torch

    from gmt_core._compat import version_of

    tensor = torch.ones(2)
    before = version_of(tensor)
    assert version_of(tensor) == before
    tensor.add_(1)
    assert version_of(tensor) > before


@canary("transformers", "the class names of a model's layers, _no_split_modules")
def test_transformers_names_the_layers_of_a_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from sweeps.finetune.parallel import blocks
    from sweeps.finetune.torch_compat import block_classes

    model = LlamaForCausalLM(LlamaConfig(**LLAMA))
    assert block_classes(model) == {"LlamaDecoderLayer"}
    assert len(blocks(model)) == LLAMA["num_hidden_layers"]


@canary("transformers", "_attn_implementation, _supports_flash_attn or _can_set_attn_...")
def test_transformers_says_which_attention_a_model_takes() -> None:
    from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

    from sweeps.finetune.torch_compat import attention_of, takes_attention

    model = LlamaForCausalLM(LlamaConfig(**LLAMA, attn_implementation="eager"))
    assert attention_of(model) == "eager"
    assert takes_attention(model)
    assert not takes_attention(BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2)))


@canary("transformers", "the layers of DynamicCache")
def test_transformers_builds_a_cache_of_layers() -> None:
    from transformers import LlamaConfig, MistralConfig

    from evaluators._compat import PLAIN, cache_layers

    layers = cache_layers(LlamaConfig(**LLAMA))
    assert [type(layer) for layer in layers] == [PLAIN[0]] * LLAMA["num_hidden_layers"]
    sliding = cache_layers(MistralConfig(**LLAMA, num_key_value_heads=2, sliding_window=8))
    assert {type(layer) for layer in sliding} == {PLAIN[1]}


@canary("lm-eval", "Task._filters")
def test_lm_eval_filters_answers_document_by_document(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from evaluators._compat import task_filters
    from evaluators.lm_eval_backend import documents, open_tasks
    from evaluators.protocol import Changes
    from tests.evaluators.harness_tasks import write_task

    path = write_task("triviaqa", tmp_path)
    (task,), _ = open_tasks(str(path), Changes())
    (request,) = documents(task, "all", Changes())[0].requests
    request.resps = [" Ann "]
    (each,) = task_filters(task)
    each.apply([request])
    assert request.filtered_resps == {"remove_whitespace": "Ann"}


@canary("transformers", "what a model calls of a cache's layer (DynamicLayer)")
def test_transformers_takes_layers_of_our_own() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from evaluators.kv_cache import batch_cache

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    ids, cache = torch.arange(1, 9).view(1, 8), batch_cache(model.config, None, 8)
    with torch.no_grad():
        steps = [model(input_ids=part, past_key_values=cache).logits for part in ids.split(3, 1)]
        torch.testing.assert_close(torch.cat(steps, 1), model(input_ids=ids).logits)


@canary("transformers", "transformers.trainer_pt_utils.LayerWiseDummyOptimizer")
def test_transformers_has_a_stand_in_for_layer_wise_optimizers() -> None:
    import torch
    from transformers import trainer_optimizer
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    assert issubclass(LayerWiseDummyOptimizer, torch.optim.Optimizer)
    assert "optimizer_cls = LayerWiseDummyOptimizer" in inspect.getsource(trainer_optimizer)


@canary("optuna", "Study.set_metric_names or Study.metric_names")
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_names_objectives() -> None:
    import optuna

    from sweeps.search.optuna_compat import name_objectives

    study = optuna.create_study(directions=["maximize", "minimize"])
    name_objectives(study, ("score", "seconds"))
    assert study.metric_names == ["score", "seconds"]


@canary("optuna", "the system attribute fixed_params, Trial.storage or Trial._trial_id")
def test_optuna_keeps_what_was_queued() -> None:
    import optuna

    from sweeps.search.optuna_compat import is_queued, queued_attrs, queued_params, stored

    study = optuna.create_study()
    study.enqueue_trial({"x": 0.25})
    queued, drawn = study.ask(), study.ask()
    assert [is_queued(stored(trial)) for trial in (queued, drawn)] == [True, False]
    assert queued_params(stored(queued)) == {"x": 0.25}
    assert queued_params(stored(drawn)) == {}
    attrs = queued_attrs(stored(queued), {"x": 0.75})
    study.add_trial(
        optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING, system_attrs=attrs)
    )
    assert study.ask().suggest_float("x", 0, 1) == 0.75


@canary("optuna", "Trial.storage or Trial._trial_id")
def test_optuna_shows_the_reports_of_a_running_trial() -> None:
    import optuna

    from sweeps.search.optuna_compat import stored

    trial = optuna.create_study().ask()
    trial.report(0.5, 1)
    assert stored(trial).intermediate_values == {1: 0.5}


@canary("optuna", "Study._storage or FrozenTrial._trial_id")
def test_optuna_sets_attributes_of_a_trial_on_record() -> None:
    import optuna

    from sweeps.search.optuna_compat import set_attr, storage_of

    study = optuna.create_study()
    study.ask()
    set_attr(study, study.get_trials()[0], "interrupted", True)
    again = optuna.Study(study.study_name, storage_of(study))
    assert again.get_trials()[0].user_attrs == {"interrupted": True}


@canary("optuna", "the system attributes constraints:NAME and cma:NAME")
def test_optuna_notes_constraints_and_the_model_of_cmaes_by_name() -> None:
    import optuna

    from sweeps.search.optuna_compat import kept_attrs, set_constraint

    study = optuna.create_study()
    study.ask()
    set_constraint(study, study.get_trials()[0], "seconds <= 1", 0.5)
    (trial,) = study.get_trials()
    assert trial.constraints == {"seconds <= 1": 0.5}
    assert optuna.samplers.CmaEsSampler(seed=0)._attr_prefix == "cma:"
    trial.system_attrs |= {"cma:generation": 1, "completed_rung_0": 0.5}
    assert kept_attrs(trial) == {"completed_rung_0": 0.5}


@canary("optuna", "BaseDistribution._contains")
def test_optuna_says_whether_a_value_can_be_drawn() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    from sweeps.search.optuna_compat import contains

    assert contains(FloatDistribution(0, 1), 1.0)
    assert not contains(FloatDistribution(0, 1), 1.5)
    assert contains(CategoricalDistribution(["a", "b"]), "b")


@canary("ray", "ray._private.utils.set_sigterm_handler")
def test_ray_sets_its_sigterm_handler_by_one_function() -> None:
    from ray._private import utils, worker

    from sweeps.execution.ray_compat import no_sigterm_handler

    before = utils.set_sigterm_handler
    assert list(inspect.signature(before).parameters) == ["sigterm_handler"]
    assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(worker)
    with no_sigterm_handler():
        assert utils.set_sigterm_handler is not before
    assert utils.set_sigterm_handler is before


@canary("ray", "ray_constants.ENABLE_RAY_CLUSTER, GCS_PORT_ENVIRONMENT_VARIABLE or the timeout")
def test_ray_can_be_kept_to_the_loopback_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import node, ray_constants, services

    from sweeps.execution.ray_compat import loopback_only

    variable = ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE
    monkeypatch.delenv(variable, raising=False)
    with loopback_only(lambda: 7) as port:
        assert port == 7 and os.environ[variable] == "7"
        assert services.get_node_ip_address() in ("127.0.0.1", "::1")
    assert "ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S" in inspect.getsource(services)
    assert ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S == 300
    assert ray_constants.ENABLE_RAY_CLUSTER and variable not in os.environ
    assert "GCS_PORT_ENVIRONMENT_VARIABLE" in inspect.getsource(node)


@canary("ray", "ray._private.services.get_ray_address_from_environment")
def test_ray_finds_the_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    from sweeps.execution.ray_compat import running_here

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    with pytest.raises(ConnectionError):
        running_here()
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: {"10.0.0.5:6379"})
    assert running_here() == "10.0.0.5:6379"


@canary("ray", "ray._private.runtime_env.packaging._dir_travel or _get_excludes")
def test_ray_lists_what_it_would_send(tmp_path: Path) -> None:
    from sweeps.execution.ray_compat import visit_shipped

    for name in ("kept", "of_git", "of_ray", "excluded"):
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("of_git\n")
    (tmp_path / ".rayignore").write_text("of_ray\n")
    seen: set[str] = set()
    visit_shipped(tmp_path, ["excluded"], lambda path: seen.add(path.name))
    assert seen - {tmp_path.name, ".gitignore", ".rayignore"} == {"kept"}


@canary("ray", "the resource of the head node")
def test_ray_calls_the_head_node_so() -> None:
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    from sweeps.execution.ray_compat import HEAD_SHARE

    assert list(HEAD_SHARE) == [HEAD_NODE_RESOURCE_NAME]


@canary("ray", "an environment variable")
def test_ray_reads_these_variables() -> None:
    import ray

    from sweeps.execution import ray_compat

    asked = {**ray_compat.DRIVER_ENVIRONMENT, **ray_compat.WORKER_ENVIRONMENT}
    asked |= {ray_compat.KUBERAY_VARIABLE: "", ray_compat.BOOTSTRAP_FILE: ""}
    asked |= {ray_compat.POLLING_INTERVAL: ""}
    home = Path(ray.__file__).parent
    folders = ("tune", "train", "air", "_private", "_common", "autoscaler")
    files = (file for folder in folders for file in (home / folder).rglob("*.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    with (home / "core/src/ray/raylet/raylet").open("rb") as raylet:
        binary = mmap.mmap(raylet.fileno(), 0, access=mmap.ACCESS_READ)
        unread = [
            name
            for name in asked
            if name not in source and binary.find(name.removeprefix("RAY_").encode()) < 0
        ]
    assert not unread, f"not read: {', '.join(unread)}"


class OneWorker:
    """A worker group of one, which does what it is asked at once, in this process."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}

    def __len__(self) -> int:
        return 1

    def get_resources_per_worker(self) -> dict[str, float]:
        return {"CPU": 1}

    def execute(self, function: Any, **given: Any) -> None:
        """Nothing: it sets variables."""

    def execute_single(self, rank: int, function: Any) -> tuple[str, int]:
        return "127.0.0.1", 1

    def execute_single_async(self, rank: int, function: Any, **given: Any) -> None:
        self.started = given
        function(**given)


@canary("ray", "ray.train.torch.config._TorchBackend")
def test_ray_train_lets_workers_meet_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    import torch.distributed as dist
    from ray.train.torch import TorchConfig

    from sweeps.execution.train_compat import MeetingAt, TorchBackend

    group, url = OneWorker(), f"file://{tmp_path}/meeting"
    monkeypatch.setattr(ray, "get", lambda started: started)
    try:
        TorchBackend().on_start(MeetingAt(group, url), TorchConfig())
        assert group.started["init_method"] == url
        assert dist.get_world_size() == 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@canary("ray", "TorchTrainer._create_default_callbacks or ray.train.v2's DatasetsCallback")
def test_ray_train_can_do_without_datasets() -> None:
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

    from sweeps.execution.train_compat import TrainerWithoutDatasets

    def kinds(trainer: type[TorchTrainer]) -> set[type]:
        return {type(each) for each in trainer(lambda: None)._create_default_callbacks()}

    assert kinds(TorchTrainer) - kinds(TrainerWithoutDatasets) == {DatasetsCallback}


@canary("mlflow", "a tag of mlflow.utils.mlflow_tags")
def test_mlflow_reads_these_tags() -> None:
    from mlflow.utils import mlflow_tags as theirs

    from sweeps.tracking import mlflow_compat as ours

    assert theirs.MLFLOW_PARENT_RUN_ID == ours.PARENT
    assert theirs.MLFLOW_RUN_NOTE == ours.NOTE
    assert theirs.MLFLOW_SOURCE_NAME == ours.SOURCE
    assert theirs.MLFLOW_GIT_COMMIT == ours.COMMIT


@canary("mlflow", "a variable of mlflow.environment_variables")
def test_mlflow_reads_these_variables() -> None:
    from mlflow import environment_variables as theirs

    from sweeps.tracking.mlflow_compat import FEW_PROCESSES, QUIET

    for name in (*QUIET, *FEW_PROCESSES):
        assert getattr(theirs, name).name == name


@canary("mlflow", "the shared view of the web page")
def test_mlflow_s_page_shows_shared_views() -> None:
    import mlflow

    from sweeps.tracking.mlflow_compat import shared_view_page, shared_view_tag

    pages = (Path(mlflow.__file__).parent / "server/js/build/static/js").glob("*.js")
    script = "".join(page.read_text(encoding="utf-8") for page in pages)
    query = shared_view_page("1", "view").partition("?")[2]
    names = [part.partition("=")[0] for part in query.split("&")]
    for name in (shared_view_tag("view").removesuffix(".view"), *names):
        assert name in script, name
