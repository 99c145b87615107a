"""The arms of a `methods` study: their settings, the runs they become, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.config.load import parse_config
from sweeps.config.study_identity import study_definition
from sweeps.config.sweep_config import SweepConfig, resolve_paths
from sweeps.execution.preflight import check_inputs
from sweeps.execution.report_data import choices
from sweeps.finetune.method_options import HalfConfig
from sweeps.search.fixed_designs import MethodsDesign, build_design
from sweeps.storage.errors import UserError

Tree = dict[str, Any]
NUISANCE = {"accumulation_interval": [1, 2], "learning_rate": 1e-3}
POINT = {"accumulation_interval": 1, "learning_rate": 1e-3}


def methods(tree: Tree, arms: object, **study: Any) -> SweepConfig:
    asked = {"kind": "methods", "mask_ratio": 0.4, "nuisance": NUISANCE, "arms": arms}
    return parse_config(tree | {"study": asked | study})


def test_the_papers_arms_are_the_default_and_leave_a_study_the_same(tree: Tree) -> None:
    asked = {"kind": "methods", "mask_ratio": 0.4, "nuisance": NUISANCE}
    plain = parse_config(tree | {"study": asked})
    same = methods(tree, ["sft", "drop_trivial", "hft", "random", "gmt"])
    assert plain == same
    definition = study_definition(plain, "sums")
    assert "arms" not in definition["study"]
    other = methods(tree, ["sft", "gmt", "lora"])
    assert study_definition(other, "sums") != definition


def test_names_and_settings_become_runs(tree: Tree) -> None:
    arms = {"sft": None, "lora": {"lora": {"rank": 8, "rslora": True}}, "shira": {}}
    config = methods(tree, arms)
    run = config.trial("sums", POINT | {"method": "lora", "mask_ratio": 0.0})
    assert run.method.lora is not None
    assert (run.method.lora.rank, run.method.lora.rslora) == (8, True)
    run = config.trial("sums", POINT | {"method": "shira", "mask_ratio": 0.98})
    assert (run.method.name, run.method.mask_ratio) == ("shira", 0.98)
    bare = methods(tree, ["sft", "lora"])
    run = bare.trial("sums", POINT | {"method": "lora", "mask_ratio": 0.0})
    assert run.method.name == "lora"
    assert run.method.lora is not None


def test_an_arm_has_its_own_candidates_also_beside_those_of_a_domain(tree: Tree) -> None:
    own = {"accumulation_interval": 1, "learning_rate": [2e-4, 5e-4]}
    tree["domains"]["sums"]["nuisance"] = {**NUISANCE, "learning_rate": 7e-5}
    design = build_design(methods(tree, {"sft": {}, "lora": {}, "gmt": {"nuisance": own}}), "sums")
    assert design is not None
    assert design.plan.own == {
        "lora": [(1, 7e-4), (2, 7e-4)],
        "gmt": [(1, 2e-4), (1, 5e-4)],
    }
    assert design.plan.combinations == ((1, 7e-5), (2, 7e-5))


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["gmt", "lora"], "arms: expected sft among them"),
        (["sft", "sft"], "expected each arm once"),
        (["sft", "lroa"], "did you mean 'lora'"),
        (["sft", {"lora": {}}], "expected keys with values below them"),
        ({"sft": {"mask_ratio": 0.2}}, "sft masks nothing, expected no mask_ratio"),
        ({"sft": {}, "gmt": {"lora": {}}}, r"arms\.gmt\.lora: expected only below arms\.lora"),
        (
            {"sft": {}, "dare": {"nuisance": NUISANCE}},
            "expected none, because dare derives from sft",
        ),
        ({"sft": {}, "lora": {"lora": {"rnak": 8}}}, "did you mean 'rank'"),
        ({"sft": {}, "lora": {"rank": 8}}, r"did you mean '.*\.lora\.rank'"),
        (
            {"sft": {}, "lroa": {}},
            r"study\.arms\.lroa: unknown value 'lroa' \(did you mean 'l",
        ),
        (
            {"sft": {"rescale": True}},
            r"arms\.sft\.rescale: expected only below arms\.drop_trivial",
        ),
        ({"sft": {}, "hft": {"hft": {"embeddings": "half"}}}, "did you mean 'halved'"),
        ({"sft": {}, "gmt": {"mask_ratio": [0.1, 1.0]}}, "less than 1"),
        (
            {"sft": {}, "lora": {"nuisance": {**NUISANCE, "learning_rate": [1e-2, 2e-2]}}},
            r"arms\.lora\.nuisance: expected 2 combinations, as the other arms have .*, got 4",
        ),
    ],
)
def test_mistakes_are_named(tree: Tree, arms: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods(tree, arms)


def test_an_arm_has_one_ratio_or_as_many_as_the_study(tree: Tree) -> None:
    design = build_design(methods(tree, ["sft", "gmt", "shira"], mask_ratio=[0.1, 0.3]), "sums")
    assert isinstance(design, MethodsDesign)
    assert [len(arm) for arm in design.alternatives()] == [1, 2, 1]
    assert isinstance(build_design(methods(tree, ["sft"], mask_ratio=None), "sums"), MethodsDesign)
    unequal = methods(tree, {"sft": {}, "gmt": {"mask_ratio": [0.1, 0.2, 0.3]}}, mask_ratio=[0.1])
    with pytest.raises(
        ValueError, match=r"arms\.gmt\.mask_ratio: expected one ratio, or 1, .* got 3"
    ):
        build_design(unequal, "sums")


def test_what_the_paper_leaves_open_is_chosen_and_said(tree: Tree) -> None:
    arms = {"sft": {}, "hft": {"hft": {"embeddings": "halved"}}, "drop_trivial": {"rescale": True}}
    config = methods(tree, arms)
    run = config.trial("sums", POINT | {"method": "hft", "mask_ratio": 0.0})
    assert run.method.hft.embeddings == "halved"
    assert choices(config.study) == "HFT: embeddings and head halved. One-off Drop: rescaled."
    plain = methods(tree, ["sft", "hft", "drop_trivial", "random"])
    assert (
        plain.trial("sums", POINT | {"method": "hft", "mask_ratio": 0.0}).method.hft
        == HalfConfig()
    )
    assert choices(plain.study) == (
        "Random Mask draws a new mask at each update. HFT: embeddings and head trained. "
        "One-off Drop: not rescaled."
    )


@pytest.mark.usefixtures("sweep_files")
def test_what_an_arm_or_the_text_lacks_is_said_before_anything_runs(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_inputs(resolve_paths(methods(tree, ["sft", "lora"])))
    with pytest.raises(ValueError, match="no linear layer 'q_prj'"):
        check_inputs(
            resolve_paths(methods(tree, {"sft": {}, "lora": {"lora": {"targets": ["q_prj"]}}}))
        )
    absent = tree | {"evaluation": {"forgetting": "absent.txt"}}
    with pytest.raises(ValueError, match=r"evaluation\.forgetting: .*absent\.txt"):
        check_inputs(resolve_paths(methods(absent, ["sft"])))
    monkeypatch.setattr("sweeps.finetune.adapter.find_spec", lambda name: None)
    check_inputs(resolve_paths(methods(tree, ["sft"])))
    with pytest.raises(ValueError, match="requires peft"):
        check_inputs(resolve_paths(methods(tree, ["sft", "lora"])))
