"""Names of MLflow that it does not promise to keep, each with what its public API lacks.

`tests/test_compat.py` fails with a sentence where one of them has gone.
"""

from __future__ import annotations

PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
SOURCE, COMMIT = "mlflow.source.name", "mlflow.source.git.commit"
"""Tags of a run that MLflow's pages read. `mlflow.start_run` sets them, for the one run that a
process has; `MlflowClient`, which may have many, has no arguments for them."""

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What no function of MLflow sets."""

FEW_PROCESSES = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""For `mlflow server`, which has no option for it: no processes for jobs, which nobody asks."""


def shared_view_tag(view_id: str) -> str:
    """The experiment's tag that holds a view to share; only the web page can make one."""
    return f"mlflow.sharedViewState.{view_id}"


_FRAME = "workflowType=machine_learning"
"""Without it, a page would open in the GenAI frame."""

EXPERIMENTS_PAGE = f"/#/experiments?{_FRAME}"
"""The list of experiments, after the server's address."""


def shared_view_page(experiment_id: str, view_id: str) -> str:
    """Where the web page shows that view, in chart mode, after the server's address."""
    page = f"/#/experiments/{experiment_id}/runs"
    return f"{page}?viewStateShareKey={view_id}&compareRunsMode=CHART&{_FRAME}"
