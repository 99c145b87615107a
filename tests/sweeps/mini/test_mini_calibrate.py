from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.config.load import load_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.mini.calibrate import BENCHMARKS, Line, Setting, header, main, run_config, table
from sweeps.mini.world import resolve

DEMO = Path(__file__).parents[3] / "sweeps" / "configs" / "mini.yaml"


@pytest.mark.parametrize("domain", BENCHMARKS)
def test_the_table_trains_as_the_demo_does(domain: str) -> None:
    point = {"learning_rate": 1e-3, "mask_ratio": 0.5, "accumulation_interval": 2, "seed": 0}
    demo = resolve_paths(load_config(DEMO)).trial(domain, point)
    here = run_config(resolve("mini:model"), domain, Setting(1e-3, 0.5, 2, 0))
    free = {"evaluation", "keep"}
    assert here.model_dump(exclude=free) == demo.model_dump(exclude=free)
    assert here.evaluation.benchmarks == demo.evaluation.benchmarks


def test_rows_align_with_the_header() -> None:
    line = Line("math", Setting(1e-3, 0.5, 2, 0), 0.75, {"exact_match": 0.75}, 2.0, 1.0)
    base = Line("math", None, 0.25, {"exact_match": 0.25}, 2.0, 1.0)
    assert header().index("benchmarks") == line.text().index("exact_match")
    assert base.text().index("exact_match") == line.text().index("exact_match")
    assert "1.0e-03   0.50" in line.text()


def test_an_unknown_domain_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--domains", "maths"])
    assert stop.value.code == 2
    assert "maths" in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_elicits_what_the_base_model_knows() -> None:
    for domain in BENCHMARKS:
        base, tuned = table(resolve("mini:model"), [domain], [Setting(1e-3, 0.0, 1, 0)])
        assert base.score is not None
        assert tuned.score is not None
        assert 0.03 < base.score < 0.55
        assert tuned.score > 0.6
        assert tuned.score > base.score + 0.25
