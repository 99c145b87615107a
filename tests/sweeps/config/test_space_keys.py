"""Any setting of a run may be searched: by dotted key, in any form, under conditions."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from sweeps.config.load import load_config, parse_config
from sweeps.config.search_space import SpaceConfig, identity, is_whole
from sweeps.config.trial_keys import KEYS
from sweeps.storage.errors import UserError

Tree = dict[str, Any]
BASE = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 1e-3}


def sweep(tree: Tree, space: Tree, **search: Any) -> Any:
    return parse_config({**tree, "space": {**BASE, **space}, "search": {"trials": 3, **search}})


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("weight_decay", 0.1, lambda run: run.weight_decay == 0.1),
        ("warmup_ratio", [0, 0.1], lambda run: run.warmup_ratio == 0),
        ("betas", [0.9, 0.95], lambda run: run.betas == (0.9, 0.95)),
        ("betas", [[0.9, 0.99], [0.8, 0.9]], lambda run: run.betas == (0.9, 0.99)),
        ("clip_norm", [None, 1.0], lambda run: run.clip_norm is None),
        ("optimizer", "adafactor", lambda run: run.optimizer == "adafactor"),
        ("schedule", ["wsd", "linear"], lambda run: run.schedule == "wsd"),
        ("examples", {"low": 32, "high": 64, "step": 8}, lambda run: run.examples == 32),
        ("batch.mini_batch", {"low": 2, "high": 4, "step": 2}, lambda run: run.batch.size() == 2),
        (
            "data.train_fraction",
            {"low": 0.5, "high": 1},
            lambda run: run.data.train_fraction == 0.5,
        ),
        ("data.max_length", 64, lambda run: run.data.max_length == 64),
        ("method.scope", "global", lambda run: run.method.scope == "global"),
        ("method.mask_ratio", 0.4, lambda run: run.method.mask_ratio == 0.4),
        ("method.name", "hft", lambda run: run.method.name == "hft"),
    ],
)
def test_a_key_reaches_the_run(tree: Tree, key: str, value: Any, read: Any) -> None:
    space = {k: v for k, v in BASE.items() if key != "method.mask_ratio" or k != "mask_ratio"}
    config = parse_config({**tree, "space": {**space, key: value}})
    assert read(config.trial("sums", config.space.combinations({})[0]))


def test_keys_may_be_nested_and_overridden(sweep_files: Any) -> None:
    config = load_config("sweep.yaml", ["space.batch.mini_batch=[4, 8]", "space.weight_decay=0.1"])
    assert config.space.parameters()["batch.mini_batch"].values() == (4, 8)
    again = parse_config(config.model_dump(mode="json"))
    assert again == config


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"wieght_decay": 0.1}, "unknown key 'space.wieght_decay' (did you mean 'weight_decay'?)"),
        ({"batch_size": [8]}, "unknown key 'space.batch_size' (did you mean 'batch.mini_batch'?)"),
        ({"epochs": [1]}, "unknown key 'space.epochs' (did you mean 'examples'?)"),
        ({"batch": {"mini_bach": [8]}}, "(did you mean 'batch.mini_batch'?)"),
        ({"seed": [1, 2]}, "space.seed: a search cannot vary this key"),
        ({"model.path": "x"}, "space.model.path: a search cannot vary this key"),
        ({"data.packing": [True]}, "space.data.packing: a search cannot vary this key"),
        ({"data": {"path": "x"}}, "space.data.path: a search cannot vary this key"),
        ({"data.sources.a.weight": 1}, "data.sources.a.weight: a search cannot vary this key"),
        ({"method.drop.rate": 0.1}, "space.method.drop.rate: a search cannot vary this key"),
        ({"dataset": "x"}, "space.dataset: a search cannot vary this key"),
        (
            {"method": ["sft", "random"], "method.scope": "global"},
            "method.scope requires gmt among the methods of the space",
        ),
        ({"weight_decay": -1}, "space.weight_decay: expected a number greater than or equal to 0"),
        ({"warmup_ratio": {"low": 0, "high": 1.5}}, "space.warmup_ratio: expected a number less"),
        ({"optimizer": ["adamw", "adm"]}, "unknown value 'adm' (did you mean 'adamw'?)"),
        ({"optimizer": {"low": 0, "high": 1}}, "expected a list such as [adafactor, adamw]"),
        ({"optimizer": "tune.choice(['adamw'])"}, "did you mean [adamw]?"),
        ({"betas": [0.9]}, "'space.betas.1' is missing"),
        ({"clip_norm": True}, "expected no boolean"),
        (
            {"method": "lora", "method.lora.rslora": {"low": 0, "high": 1}},
            "method.lora.rslora: expected a list such as [false, true]",
        ),
        ({"method.lora.rank": [4]}, "method.lora.rank requires lora among the methods of the sp"),
        ({"method": "gmt", "method.lora.rank": [4]}, "requires lora among the methods of the sp"),
        ({"batch.mini_batch": {"min": 1, "max": 8}}, "did you mean {low: 1, high: 8}?"),
        (
            {"batch.mini_batch": {"low": 1, "high": 8, "step": 0.5}},
            "step: expected a whole num",
        ),
        ({"weight_decay": {"values": [0, 0.1]}}, "did you mean [0, 0.1]?"),
        ({"batch.mini_batch": 8, "batch": {"mini_batch": 4}}, "batch.mini_batch is given twice"),
        ({"method.name": "gmt", "method": "gmt"}, "method is given twice"),
        (
            {"weight_decay": {"choices": [0], "when": {"optimiser": "adamw"}}},
            "weight_decay.when: ",
        ),
        (
            {"optimizer": "adamw", "betas": {"choices": [[0.9, 0.9]], "when": {"optimizer": "x"}}},
            "betas.when: optimizer is never x: expected one of adamw",
        ),
        (
            {"optimizer": "adamw", "schedule": {"choices": ["wsd"], "when": {"optimizer": []}}},
            "schedule.when: optimizer: expected at least one value",
        ),
        (
            {
                "schedule": {"choices": ["wsd"], "when": {"optimizer": "adamw"}},
                "optimizer": {"choices": ["adamw"], "when": {"schedule": "wsd"}},
            },
            "the condition depends on schedule itself",
        ),
        ({"learning_rate": {"choices": [1], "when": {"optimizer": "adamw"}}}, "expected no condi"),
        # In combination, found before anything runs.
        ({"batch.mini_batch": [8, 6]}, "examples: expected a multiple of the effective batch 6"),
        ({"batch.global_batch": [8]}, "expected batch.mini_batch and no other size"),
        ({"examples": [64, 20]}, "examples: expected a multiple of the effective batch 8"),
        ({"examples": {"low": 8, "high": 800000, "step": 8}}, "more than 10,000 combinations"),
    ],
)
def test_what_no_trial_could_run_is_refused_at_load(tree: Tree, space: Tree, words: str) -> None:
    with pytest.raises(UserError) as refused:
        sweep(tree, space)
    assert words in str(refused.value)


def test_options_of_a_method_are_drawn_for_it_alone(tree: Tree) -> None:
    methods: Tree = {"method": ["sft", "gmt"], "mask_ratio": [0.2, 0.4]}
    space = sweep(tree, {**methods, "method.scope": ["tensor", "global"]}).space
    assert space.size() == len(space.grid()) == 1 + 2 * 2
    assert {len(point) for point in space.grid()} == {3, 5}
    methods["method"] = ["sft", "gmt", "random"]
    config = sweep(tree, {**methods, "method.scope": "global"})
    runs = [config.trial("sums", config.space.point(point)) for point in config.space.grid()]
    scopes = {(run.method.name, run.method.scope) for run in runs}
    assert scopes == {("sft", "tensor"), ("gmt", "global"), ("random", "tensor")}


def test_a_scope_is_an_option_of_gmt(tree: Tree) -> None:
    scoped = {"mask_ratio": [0, 0.2], "method.scope": "global"}
    config = sweep(tree, scoped)
    runs = [config.trial("sums", point) for point in config.space.grid()]
    assert [(run.method.name, run.method.scope) for run in runs] == [
        ("sft", "tensor"),
        ("gmt", "global"),
    ]
    random = {**tree["training"], "method": "random"}
    for training, space in (({**random, "scope": "global"}, {}), (random, scoped)):
        with pytest.raises(UserError, match="scope 'global' is an option of method 'gmt', got"):
            sweep({**tree, "training": training}, space)


def test_options_of_lora_may_be_searched(tree: Tree) -> None:
    rslora, targets = [True, False], [["q_proj"], ["q_proj", "v_proj"]]
    options = {"method.lora.rslora": rslora, "method": {"lora": {"targets": targets}}}
    config = sweep(tree, {"method.name": ["gmt", "lora"], **options})
    points = config.space.grid()
    assert len(points) == config.space.size() == 1 + 2 * 2
    runs = [config.trial("sums", config.space.point(point)).method.lora for point in points]
    found = [(run.rslora, [*run.targets]) for run in runs if run is not None]
    assert sorted(found) == sorted((scaled, names) for scaled in rslora for names in targets)
    assert str(config.space.parameters()["method.lora.rslora"]) == "one of true, false"
    assert parse_config(config.model_dump(mode="json")) == config


def test_conditions_decide_size_grid_and_identity(tree: Tree) -> None:
    space: SpaceConfig = sweep(
        tree,
        {
            "betas": {"choices": [[0.9, 0.95], [0.9, 0.99]], "when": {"optimizer": "adamw"}},
            "optimizer": ["adamw", "adafactor"],
            "weight_decay": [0, 0.1, 0.2],
        },
    ).space
    grid = space.grid()
    assert space.size() == len(grid) == 3 * (2 + 1)
    assert len({identity(space, point) for point in grid}) == 9
    assert all(is_whole(space, point) for point in grid)
    assert not is_whole(space, {k: v for k, v in grid[0].items() if k != "betas"})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggest(study.ask()) for _ in range(20)]
    assert {("betas" in point) == (point["optimizer"] == "adamw") for point in drawn} == {True}


@pytest.mark.parametrize(
    ("search", "space", "words"),
    [
        ({"sampler": "cmaes"}, {"weight_decay": [0, 0.1]}, "space.weight_decay is a list"),
        (
            {"sampler": "cmaes"},
            {
                "optimizer": "adamw",
                "weight_decay": {"low": 0, "high": 1, "when": {"optimizer": "adamw"}},
            },
            "space.weight_decay has a condition",
        ),
        ({"sampler": "bayes"}, {}, "search.sampler: unknown value 'bayes'"),
        ({"constraints": ["seconds < 5"]}, {}, "expected a quantity, <= or >=, and a number"),
        ({"constraints": ["secs <= 5"]}, {}, "unknown quantity 'secs' (did you mean 'seconds'?)"),
        ({"constraints": ["seconds <= nan"]}, {}, "expected a quantity"),
        ({"start": [{"weight_decay": 0.1}]}, {}, "because space.weight_decay is not given"),
        ({"start": [{"wd": 0.1}]}, {}, "(did you mean 'weight_decay'?)"),
        ({"start": [{"weight_decay": 0.2}]}, {"weight_decay": [0, 0.1]}, "expected one of 0, 0.1"),
    ],
)
def test_a_search_that_does_not_fit_its_space_is_refused(
    tree: Tree, search: Tree, space: Tree, words: str
) -> None:
    with pytest.raises(UserError) as refused:
        sweep(tree, space, **search)
    assert words in str(refused.value)


def test_what_a_sampler_does_not_learn_is_said(tree: Tree) -> None:
    decay = {"low": 0, "high": 1, "when": {"optimizer": "adamw"}}
    space = {"optimizer": ["adamw", "adafactor"], "weight_decay": decay}

    def remarks(**search: Any) -> list[str]:
        config = sweep(tree, space, **search)
        return [*config.search.remarks(config.space)]

    (said,) = remarks(sampler="gp")
    assert "gp draws parameters with a condition at random (weight_decay)" in said
    (said,) = remarks(sampler="random", constraints=["seconds <= 9"])
    assert "without regard to the constraints" in said
    assert not remarks(constraints=["seconds <= 9"])


def test_the_keys_are_the_training_settings() -> None:
    assert {"method", "mask_ratio", "batch.mini_batch", "schedule", "betas"} <= KEYS.keys()
    assert not {"seed", "threads", "parallel", "evaluation.checks", "data.path"} & KEYS.keys()
