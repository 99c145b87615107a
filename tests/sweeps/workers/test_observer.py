"""What the tracker is told of a group's job."""

from __future__ import annotations

from sweeps.workers.observer import trial_info

POINT = {"mask_ratio": 0.2, "accumulation_interval": 1, "learning_rate": 1e-3}


def test_a_trial_of_a_search_names_the_method_of_the_sweep() -> None:
    job = {"key": "000-a", "number": 0, "point": POINT, "method": "random"}
    told = trial_info(job, 7)
    assert dict(told.parameters) == {**POINT, "method": "random"}
    assert told.seed == 7


def test_a_trial_of_a_design_has_its_own_method_and_seed() -> None:
    point = {**POINT, "method": "sft", "seed": 3}
    told = trial_info({"key": "001-b", "number": 1, "point": point, "method": "sft"}, 7)
    assert (told.parameters["method"], told.seed) == ("sft", 3)
    assert "seed" not in told.parameters
