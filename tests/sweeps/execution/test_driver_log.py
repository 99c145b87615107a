"""The driver's log: what is written there, what it keeps off the terminal, what status reads."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sweeps.execution.driver_log import LOG, driver_log, latest_trouble
from sweeps.finetune.finetune_config import ModelConfig
from sweeps.finetune.model_facts import warn_of_rounding


def test_a_warning_is_logged_between_start_and_end(tmp_path: Path) -> None:
    file = tmp_path / "driver.log"
    with driver_log(file, "small"):
        LOG.warning("a trial failed")
        LOG.debug("a detail")
    lines = file.read_text().splitlines()
    assert "sweep small starts" in lines[0] and "sweep small ends" in lines[-1]
    assert [line for line in lines if "WARNING" in line] == [lines[1]]


def test_rays_warnings_go_to_the_file_and_not_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = logging.StreamHandler()
    logging.getLogger("ray").addHandler(shown)
    try:
        with driver_log(tmp_path / "driver.log", "small"):
            logging.getLogger("ray.train").warning("a node is low on memory")
            logging.getLogger("ray.tune").info("a detail")
            logging.getLogger("ray.tune.analysis.experiment_analysis").warning("no progress.csv")
        logging.getLogger("ray.train").warning("after the sweep")
    finally:
        logging.getLogger("ray").removeHandler(shown)
    text = (tmp_path / "driver.log").read_text()
    assert "WARNING ray.train: a node is low on memory" in text and "a detail" not in text
    assert "progress.csv" not in text
    assert "after the sweep" not in text
    assert "low on memory" not in capfd.readouterr().err


def test_the_error_that_ends_a_sweep_is_logged_and_raised(tmp_path: Path) -> None:
    file = tmp_path / "driver.log"
    with pytest.raises(OSError, match="no space"), driver_log(file, "small"):
        raise OSError("no space")
    assert latest_trouble(file).endswith("sweeps.driver: sweep small failed: OSError: no space")


def test_a_file_that_cannot_be_written_ends_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with driver_log(Path("/dev/full"), "small"):
        LOG.warning("a cause")
    assert "Traceback" not in capfd.readouterr().err


def test_the_latest_trouble_is_the_last_warning_with_its_time(tmp_path: Path) -> None:
    file = tmp_path / "driver.log"
    assert latest_trouble(file) == ""
    with driver_log(file, "small"):
        assert latest_trouble(file) == ""
        LOG.warning("the first cause")
        LOG.warning("the second cause\nwith a line of its own")
    date, time, text = latest_trouble(file).split(maxsplit=2)
    assert text == "sweeps.driver: the second cause"
    assert len(date) == 10 and len(time) == 8


def test_pure_bfloat16_is_told_in_the_log(tmp_path: Path) -> None:
    with driver_log(tmp_path / "driver.log", "small"):
        warn_of_rounding(ModelConfig(path="m", dtype="bfloat16"))
        warn_of_rounding(ModelConfig(path="m"))
    told = (tmp_path / "driver.log").read_text()
    assert told.count("WARNING") == 1
    assert "model.dtype: bfloat16 weights lose updates to rounding" in told
