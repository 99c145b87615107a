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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from mlflow import MlflowClient

from sweeps.tracking.mlflow_compat import PARENT, shared_view_page, shared_view_tag
from sweeps.tracking.tracker import StudyInfo

# MLflow's pages prefer the alphabetically first parameters. This copy is for charts, which have
# no log axis, so its name sorts after the three real ones.
LOG_LEARNING_RATE = "optimizer_log10_lr"
SECTIONS = ("Study", "final", "eval", "train", "gmt", "cost")

Json = dict[str, Any]


@final
@dataclass(frozen=True)
class PublishedView:
    """`url_path` starts with "/#" and follows the server's address; `label` describes the view."""

    view_id: str
    url_path: str
    label: str = "compare trials"


def publish_study(
    client: MlflowClient, experiment_id: str, parent_run_id: str, info: StudyInfo
) -> tuple[PublishedView, ...]:
    """Publish all views of a study: its trials, and a fixed design's means over replicates."""
    kind, ids = info.trial_kind, (experiment_id, parent_run_id)
    one = publish(client, *ids, name=f"{info.name}: {kind}s", kind=kind)
    if not info.arms:
        return (one,)
    name = f"{info.name}: means by {' and '.join(info.arms)}"
    return one, publish(client, *ids, name=name, kind=kind, group_by=info.arms)


def publish(
    client: MlflowClient,
    experiment_id: str,
    parent_run_id: str,
    metric: str = "final/score",
    name: str = "GMT study",
    *,
    kind: str = "trial",
    group_by: Sequence[str] = (),
) -> PublishedView:
    """Publish the view of one study's trials, best `metric` first; repeating replaces it.

    `kind`: the `gmt.kind` of the trials. `group_by`: trials with equal values of these parameters
    become one row and one point, with their mean (the page shows no intervals). A grouped view
    shows only the replicates of a design, because conclusions never use tuning or fresh seeds.
    """
    view_id = "-".join((f"gmt-{parent_run_id[:12]}", *group_by))
    state = json.dumps(_state(view_id, parent_run_id, metric, kind, group_by))
    value = {"name": name, "createdAt": int(time.time() * 1000), "state": state}
    client.set_experiment_tag(experiment_id, shared_view_tag(view_id), json.dumps(value))
    label = f"compare {kind}s" + (f", means by {' and '.join(group_by)}" if group_by else "")
    return PublishedView(view_id, shared_view_page(experiment_id, view_id), label)


def _state(
    view_id: str, parent_run_id: str, metric: str, kind: str, group_by: Sequence[str]
) -> Json:
    sections = {name: _uuid(view_id, "section", name) for name in SECTIONS}
    return {
        "selectedColumns": _columns(metric),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": _grouped(group_by) if group_by else None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
        "chartsSearchFilter": "",
        "compareRunSections": [_section(identity, name) for name, identity in sections.items()],
        "compareRunCharts": [
            {
                "uuid": _uuid(view_id, "chart", str(index)),
                "deleted": False,
                "isGenerated": False,
                "runsCountToCompare": 100,
                "metricSectionId": sections[section],
                **chart,
            }
            for index, (section, chart) in enumerate(_charts(metric))
        ],
        # Sorting by a metric flattens the run tree; the filter then keeps only the trials.
        "searchFilter": _filter(parent_run_id, kind, is_grouped=bool(group_by)),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


def _filter(parent_run_id: str, kind: str, *, is_grouped: bool) -> str:
    found = f"tags.`gmt.kind` = '{kind}' and tags.`{PARENT}` = '{parent_run_id}'"
    return f"{found} and params.`stage` = 'replicate'" if is_grouped else found


def _grouped(parameters: Sequence[str]) -> Json:
    keys = [{"mode": "param", "groupByData": parameter} for parameter in parameters]
    return {"aggregateFunction": "average", "groupByKeys": keys}


def _columns(metric: str) -> list[str]:
    parameters = ("mask_ratio", "accumulation_interval", "learning_rate", "seed", "method")
    return [
        f"metrics.`{metric}`",
        *(f"params.`{name}`" for name in parameters),
        "metrics.`cost/train_seconds`",
        # The status icons of FAILED and KILLED look alike.
        "tags.`gmt.state`",
    ]


def _charts(metric: str) -> list[tuple[str, Json]]:
    space = ["mask_ratio", "accumulation_interval", LOG_LEARNING_RATE]
    return [
        ("Study", _parallel(space, metric)),
        ("Study", _scatter("mask_ratio", metric)),
        ("Study", _contour("mask_ratio", LOG_LEARNING_RATE, metric)),
        ("final", _bar(metric)),
        ("eval", _line("eval/score")),
        ("train", _line("train/loss")),
        ("train", _line("train/grad_norm")),
        ("gmt", _line("gmt/kept_fraction")),
        ("gmt", _line("gmt/energy_kept")),
        ("cost", _bar("cost/train_seconds")),
        ("cost", _bar("cost/eval_seconds")),
    ]


def _section(identity: str, name: str) -> Json:
    return {
        "uuid": identity,
        "name": name,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        # Readable beside the run list; a parallel plot needs the full width.
        "columns": 1 if name == "Study" else 2,
        "cardHeight": 360,
    }


def _parallel(parameters: Sequence[str], metric: str) -> Json:
    return {
        "type": "PARALLEL",
        "displayName": f"Search space and {metric}",
        "selectedParams": list(parameters),
        "selectedMetrics": [metric],
        "showAllRuns": True,
    }


def _scatter(parameter: str, metric: str) -> Json:
    return {
        "type": "SCATTER",
        "displayName": f"{metric} against {parameter}",
        "xaxis": {"key": parameter, "type": "PARAM"},
        "yaxis": {"key": metric, "type": "METRIC"},
    }


def _contour(x: str, y: str, metric: str) -> Json:
    return {
        "type": "CONTOUR",
        "displayName": f"{metric} over {x} and {y}",
        "xaxis": {"key": x, "type": "PARAM"},
        "yaxis": {"key": y, "type": "PARAM"},
        "zaxis": {"key": metric, "type": "METRIC"},
    }


def _bar(metric: str) -> Json:
    return {"type": "BAR", "metricKey": metric}


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
