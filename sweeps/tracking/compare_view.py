"""Publish a comparison view of a study's trials in the MLflow web page.

MLflow stores a shared view as an experiment tag (`shared_view_tag`). Its value is JSON with the
page's state: columns, order, filter and charts. Without a view, the run table shows no parameters
or metrics. The format is internal to the page and undocumented (tested with MLflow 3.17), so
conclusions rest on the HTML report and not on this view.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from mlflow import MlflowClient

from sweeps.tracking.mlflow_compat import PARENT, shared_view_page, shared_view_tag
from sweeps.tracking.tracker import StudyInfo

# MLflow's pages prefer the alphabetically first parameters. This copy is for charts, which have
# no log axis, so its name sorts after the three real ones.
LOG_LEARNING_RATE = "optimizer_log10_lr"
SECTIONS = ("Study", "final", "eval", "train", "gmt")
SCORE = "final/score"

Json = dict[str, Any]


def publish_study(
    client: MlflowClient, experiment_id: str, parent_run_id: str, info: StudyInfo
) -> list[tuple[str, str]]:
    """Publish all views of a study: its trials, and a fixed design's means over replicates.

    Returns the label of each, and its path after the server's address. Repeating replaces them.
    In the second view, trials that are equal in the parameters of the arms become one row and one
    point, with their mean (the page shows no intervals). It shows only the replicates of a design,
    because conclusions never use tuning or fresh seeds.
    """
    published = []
    for arms in ((), *([info.arms] if info.arms else [])):
        view_id = "-".join((f"gmt-{parent_run_id[:12]}", *arms))
        means = f"means by {' and '.join(arms)}"
        value = {
            "name": f"{info.name}: {means if arms else f'{info.trial_kind}s'}",
            "createdAt": int(time.time() * 1000),
            "state": json.dumps(_state(view_id, parent_run_id, info, arms)),
        }
        client.set_experiment_tag(experiment_id, shared_view_tag(view_id), json.dumps(value))
        label = f"compare {info.trial_kind}s" + (f", {means}" if arms else "")
        published.append((label, shared_view_page(experiment_id, view_id)))
    return published


def _state(view_id: str, parent_run_id: str, info: StudyInfo, arms: tuple[str, ...]) -> Json:
    sections = {name: _uuid(view_id, "section", name) for name in SECTIONS}
    found = f"tags.`gmt.kind` = '{info.trial_kind}' and tags.`{PARENT}` = '{parent_run_id}'"
    keys = [{"mode": "param", "groupByData": name} for name in arms]
    return {
        "selectedColumns": _columns(info.searched),
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if arms else None,
        "compareRunSections": [
            # Readable beside the run list; a parallel plot needs the full width.
            {
                "uuid": identity,
                "name": name,
                "display": True,
                "columns": 1 if name == "Study" else 2,
                "cardHeight": 360,
            }
            for name, identity in sections.items()
        ],
        "compareRunCharts": [
            {
                "uuid": _uuid(view_id, "chart", str(index)),
                "runsCountToCompare": 100,
                "metricSectionId": sections[section],
                **chart,
            }
            for index, (section, chart) in enumerate(_charts(info.searched))
        ],
        # Sorting by a metric flattens the run tree; the filter then keeps only the trials.
        "searchFilter": f"{found} and params.`stage` = 'replicate'" if arms else found,
        "orderByKey": f"metrics.`{SCORE}`",
        "orderByAsc": False,
    }


def _columns(searched: tuple[str, ...]) -> list[str]:
    fixed = ("mask_ratio", "accumulation_interval", "learning_rate", "seed", "method")
    parameters = dict.fromkeys((*fixed, *searched))
    return [
        f"metrics.`{SCORE}`",
        *(f"params.`{name}`" for name in parameters),
        # The status icons of FAILED and KILLED look alike.
        "tags.`gmt.state`",
        "tags.`cost/train_seconds`",
    ]


def _charts(searched: tuple[str, ...]) -> list[tuple[str, Json]]:
    """The charts, each with its section."""
    ratio = {"key": "mask_ratio", "type": "PARAM"}
    rate = {"key": LOG_LEARNING_RATE, "type": "PARAM"}
    score = {"key": SCORE, "type": "METRIC"}
    parallel = {
        "type": "PARALLEL",
        "displayName": f"Search space and {SCORE}",
        "selectedParams": ["mask_ratio", "accumulation_interval", LOG_LEARNING_RATE, *searched],
        "selectedMetrics": [SCORE],
        "showAllRuns": True,
    }
    scatter = {"displayName": f"{SCORE} against mask_ratio", "xaxis": ratio, "yaxis": score}
    contour = {
        "displayName": f"{SCORE} over mask_ratio and {LOG_LEARNING_RATE}",
        "xaxis": ratio,
        "yaxis": rate,
        "zaxis": score,
    }
    return [
        ("Study", parallel),
        ("Study", {"type": "SCATTER", **scatter}),
        ("Study", {"type": "CONTOUR", **contour}),
        ("final", {"type": "BAR", "metricKey": SCORE}),
        ("eval", _line("eval/score")),
        ("train", _line("train/loss")),
        ("train", _line("train/grad_norm")),
        ("gmt", _line("gmt/kept_fraction")),
        ("gmt", _line("gmt/energy_kept")),
    ]


def _line(metric: str) -> Json:
    return {
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "ignoreOutliers": False,
        "yAxisKey": "metric",
        "yAxisExpressions": [],
    }


def _uuid(*parts: str) -> str:
    """A stable id, so that publishing again does not change any chart's id."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("gmt-sweep", *parts))))
