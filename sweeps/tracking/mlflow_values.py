"""A trial's parameters and numbers as MLflow takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sweeps.tracking.tracker import TrialInfo, parameter_texts

if TYPE_CHECKING:
    from mlflow.entities import Param


def params(trial: TrialInfo) -> list[Param]:
    """The trial's parameters, with the logarithm that charts need of the learning rate."""
    from mlflow.entities import Param

    from sweeps.tracking.compare_view import LOG_LEARNING_RATE

    texts = parameter_texts(trial)
    if "learning_rate" in trial.parameters:
        texts[LOG_LEARNING_RATE] = f"{math.log10(float(trial.parameters['learning_rate'])):.4f}"
    return [Param(name, value) for name, value in texts.items()]


def named(metrics: Mapping[str, float]) -> dict[str, float]:
    """Names as MLflow takes them: "pass@1" becomes "pass_at_1"."""
    return {
        re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_")): value
        for name, value in metrics.items()
    }


def finite(value: float) -> float:
    """Infinity as NaN: MLflow would store 1.8e308 and flatten every chart it appears in."""
    return float("nan") if math.isinf(value) else value
