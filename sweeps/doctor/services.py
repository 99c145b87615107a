"""What a run leans on: MLflow, and the sandbox for generated code."""

from __future__ import annotations

from sweeps.doctor.finding import Finding
from sweeps.tracking.mlflow_store import check_store, public_address
from sweeps.tracking.tracker import TrackingError


def tracker_problem(uri: str) -> str:
    """What is wrong with the store at ``uri`` as this machine sees it, or "". Takes 5 s at most.

    A server that refuses this machine's name for it (its check of the Host header) is told too.
    """
    try:
        check_store(uri)
    except TrackingError as error:
        return str(error)
    return ""


def check_tracker(uri: str, problem: str) -> Finding:
    """MLflow answers."""
    shown = public_address(uri) if "://" in uri and uri.startswith("http") else uri
    if not problem:
        return Finding("MLflow", True, f"{shown} answers")
    if "403" in problem:
        mend = f"mlflow server --allowed-hosts {shown.partition('://')[2]},localhost:*"
    elif uri.startswith("http"):
        mend = f"curl {shown}/health; start the server, or give tracking.uri=ADDRESS"
    else:
        mend = "give another file, as tracking.uri=sqlite:////FOLDER/mlflow.db"
    return Finding("MLflow", False, problem, mend)


def sandbox_level() -> str:
    """The strongest level that this machine has; "" if not even the weakest works."""
    from evaluators.errors import SandboxError
    from evaluators.sandbox import LEVELS, resolve_level

    for level in LEVELS:
        try:
            return resolve_level(level)
        except SandboxError:
            continue
    return ""


def check_sandbox(level: str) -> Finding:
    """Programs that a model wrote run as confined as possible."""
    if level == "bubblewrap":
        return Finding(
            "sandbox", True, "bubblewrap: generated programs see no network and no file"
        )
    said = f"only '{level}': enough for a model of one's own, not for code from strangers"
    if not level:
        return Finding("sandbox", False, "none works", "apt-get install bubblewrap")
    return Finding("sandbox", True, said, "apt-get install bubblewrap")
