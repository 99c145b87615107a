"""The checks of ``doctor``: versions, GPUs, disk, memory, clock, storage, sandbox, MLflow, upload.

Each function judges plain values, so that a node's can be judged too.
"""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import final

from sweeps.execution.preflight import writable
from sweeps.execution.ray_compat import visit_shipped
from sweeps.execution.shared_storage import ALLOWED, problem, remedy
from sweeps.storage.address import Address, is_address
from sweeps.storage.errors import UserError
from sweeps.storage.object_store import ObjectStore, StorageError
from sweeps.tracking.mlflow_store import check_store, public_address
from sweeps.tracking.tracker import TrackingError

GIB, MIB = 2**30, 2**20
LEAST_DISK = 10 * GIB
LEAST_MEMORY = 2 * GIB
MOST_UPLOAD = 50 * MIB
"""The code takes a few MiB; Ray itself refuses 500."""

MOST_SKEW_SECONDS = 2.0
"""Time stamps of metrics and locks are compared across machines."""

DECIDING = ("torch", "transformers", "ray", "optuna", "mlflow", "datasets", "pydantic")
"""The packages whose versions must be the same on every machine of a sweep."""

_INSTALL = "pip install -c constraints.txt -e ."
_SECRET = re.compile(
    r"(^|/)(\.env(\..+)?|id_(rsa|ed25519)|auth_token|credentials(\.json)?|[^/]+\.(pem|key))$"
)


@final
@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` says how to fix a failure; with ``ok`` it is advice on
    how to improve something that works. Empty if there is nothing to do."""

    name: str
    ok: bool
    said: str
    fix: str = ""


def _judged(name: str, ok: bool, said: str, fix: str) -> Finding:
    """A finding whose ``fix`` is only for a failure."""
    return Finding(name, ok, said, "" if ok else fix)


def versions() -> dict[str, str]:
    """The versions of Python and of the `DECIDING` packages; "missing" if not installed."""
    found = {"python": platform.python_version()}
    for name in DECIDING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def read_pins(constraints: Path) -> dict[str, str]:
    """The pinned versions of a constraints file by package; {} without one."""
    if not constraints.is_file():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.strip().lower(): version.strip() for name, _, version in pins}


def check_installed(found: Mapping[str, str], pins: Mapping[str, str]) -> Finding:
    """All packages are installed; mention versions that differ from the tested ones (``pins``)."""
    if missing := sorted(name for name, version in found.items() if version == "missing"):
        return Finding("versions", False, f"not installed: {', '.join(missing)}", _INSTALL)
    shown = ", ".join(f"{name} {version}" for name, version in found.items())
    other = [f"{n} {pins[n]}" for n in found if n in pins and not _same(found[n], pins[n])]
    if not other:
        return Finding("versions", True, shown)
    return Finding("versions", True, f"{shown}; the tests ran with {', '.join(other)}", _INSTALL)


def check_same(here: Mapping[str, str], there: Mapping[str, str]) -> Finding:
    """Compare a node's versions with the driver's."""
    differing = [
        f"{name} {there.get(name, 'missing')} (driver: {version})"
        for name, version in here.items()
        if not _same(there.get(name, "missing"), version)
    ]
    said = f"differ from the driver's: {', '.join(differing)}"
    fix = "ray up cluster.yaml   (its setup installs the pinned packages on every node)"
    return _judged("versions", not differing, said if differing else "same as on the driver", fix)


def _same(one: str, other: str) -> bool:
    """Whether two versions are the same release, such as 2.13.0 and 2.13.0+cu130."""
    return one.partition("+")[0] == other.partition("+")[0]


def check_shadowed(owners: Mapping[str, list[str]], loaded: Path) -> Finding:
    """Detect another PyPI distribution that also installs a package called `sweeps`.

    ``owners``: as `importlib.metadata.packages_distributions`; ``loaded``: where `sweeps` is.
    """
    others = sorted({name for name in owners.get("sweeps", []) if name != "gmt-sweep"})
    said = f"the installed {', '.join(others)} contains another package called 'sweeps'"
    fix = f"pip uninstall {' '.join(others)}"
    return _judged("sweeps package", not others, said if others else f"ours, in {loaded}", fix)


@final
@dataclass(frozen=True)
class Gpu:
    """One GPU that torch sees; memory in bytes."""

    name: str
    memory: int


def gpus() -> list[Gpu]:
    """The GPUs that this process may use."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = (torch.cuda.get_device_properties(index) for index in range(count))
    return [Gpu(each.name, each.total_memory) for each in found]


def driver_sees_gpus() -> bool:
    """Whether the operating system has an NVIDIA GPU, even if torch cannot use it."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def check_gpus(found: list[Gpu], wanted: float, present: bool) -> Finding:
    """``wanted``: GPUs per worker of a trial; ``present``: whether the machine has any."""
    if not found and present:
        said = "this machine has an NVIDIA GPU, but torch cannot use it"
        fix = 'nvidia-smi; python -c "import torch; print(torch.version.cuda)"'
        return Finding("GPUs", False, said, fix)
    if wanted > len(found):
        said = f"a worker needs {wanted:g}, but {len(found)} are visible"
        return Finding("GPUs", False, said, "set resources.gpus_per_worker=0, or use a cluster")
    if not found:
        return Finding("GPUs", True, "none; trials run on CPUs")
    names = Counter(gpu.name for gpu in found)
    least = min(gpu.memory for gpu in found) / GIB
    said = ", ".join(f"{count} x {name}" for name, count in names.items())
    return Finding("GPUs", True, f"{said}, at least {least:.0f} GiB each")


def check_masks(found: list[Gpu], device: str = "cuda") -> list[Finding]:
    """Launch the kernels of masks once and compare with the CPU; nothing without GPUs."""
    if not found:
        return []
    import torch

    from gmt_core import GradientMask

    mask, here = GradientMask(0.5), torch.randn(1000, 1000)
    fix = "nvidia-smi; apt-get install gcc   (Triton builds the launchers of its kernels with it)"
    try:
        there = here.to(device)
        mask.mask_([there], 0)
        mask.mask_([here], 0)
        ok, said = torch.equal(there.cpu(), here), "a mask on the GPU"
    except Exception as error:  # of the driver, of Triton or of its compiler
        return [Finding("kernels", False, " ".join(str(error).split())[-300:], fix)]
    said += " equals the CPU's" if ok else " differs from the CPU's"
    return [_judged("kernels", ok, said, fix)]


def check_disk(free: int, folder: Path) -> Finding:
    """Space for checkpoints and models."""
    said, ok = f"{free / GIB:.0f} GiB free at {folder}", free >= LEAST_DISK
    said += "" if ok else f", expected at least {LEAST_DISK / GIB:.0f}"
    return _judged("disk", ok, said, f"df -h {folder}; use another folder: storage=FOLDER")


def check_memory(free: int) -> Finding:
    """Memory for one worker of a small model; `validate` checks the need of a given study."""
    said, ok = f"{free / GIB:.1f} GiB free", free >= LEAST_MEMORY
    said += "" if ok else f", expected at least {LEAST_MEMORY / GIB:.0f}"
    return _judged("memory", ok, said, "free -g; lower resources.concurrency")


def check_clock(sent: float, there: float, received: float) -> Finding:
    """Compare a node's clock with the driver's, which sent at ``sent``, received at ``received``.

    All in Unix seconds. The transfer took an unknown part of that interval, so only a time
    outside the interval counts as skew.
    """
    skew = max(sent - there, there - received, 0.0)
    ok, said = skew <= MOST_SKEW_SECONDS, "no measurable difference from the driver's"
    said = said if ok else f"differs from the driver's by {skew:.1f} s or more"
    return _judged("clock", ok, said, "sudo timedatectl set-ntp true")


def check_writable(storage: Path | str) -> Finding:
    """Check the storage, a folder or an object store, from the driver's machine."""
    try:
        if is_address(str(storage)):
            ObjectStore.open(Address.parse(str(storage))).check()
            return Finding("storage", True, f"{storage} is readable and writable")
        with writable(Path(storage)):
            return Finding("storage", True, f"{storage} is writable")
    except StorageError as error:
        return Finding("storage", False, str(error), ALLOWED)
    except UserError as error:
        return Finding("storage", False, str(error), "use another folder: storage=FOLDER")


def check_shared(storage: Path | str, word: str, node: str, answered: str) -> Finding:
    """Compare a node's answer with the driver's view: each must see what the other wrote."""
    if said := problem(storage, word, node, answered):
        said = f"{storage}: {said}; a trial could not resume from its checkpoint on another node"
        return Finding("storage", False, said, remedy(storage))
    return Finding("storage", True, f"{storage} is the same as on the driver")


def tracker_problem(uri: str) -> str:
    """What is wrong with the store at ``uri``, seen from this machine, or "". Takes 5 s at most.

    Also detects a server that rejects the name this machine uses for it (its Host header check).
    """
    try:
        check_store(uri)
    except TrackingError as error:
        return str(error)
    return ""


def check_tracker(uri: str, problem: str) -> Finding:
    """Whether MLflow responds."""
    shown = public_address(uri) if uri.startswith("http") else uri
    if "403" in problem:
        fix = f"mlflow server --allowed-hosts {shown.partition('://')[2]},localhost:*"
    elif uri.startswith("http"):
        fix = f"curl {shown}/health; start the server, or set tracking.uri=ADDRESS"
    else:
        fix = "use another file: tracking.uri=sqlite:////FOLDER/mlflow.db"
    return _judged("MLflow", not problem, problem or f"{shown} responds", fix)


def sandbox_level() -> str:
    """The strongest level that works on this machine; "" if none does."""
    from evaluators.errors import SandboxError
    from evaluators.sandbox import LEVELS, resolve_level

    for level in LEVELS:
        try:
            return resolve_level(level)
        except SandboxError:
            continue
    return ""


def check_sandbox(level: str) -> Finding:
    """How well model-generated programs are confined at ``level``."""
    if level == "bubblewrap":
        said = "bubblewrap: generated programs have no network and no files"
        return Finding("sandbox", True, said)
    said = f"only '{level}': enough for a model you trust, not for untrusted code"
    return Finding(
        "sandbox", bool(level), said if level else "no level works", "apt-get install bubblewrap"
    )


@final
@dataclass(frozen=True)
class Shipped:
    """One file that would be uploaded; its path is relative to the folder."""

    path: str
    size: int


def shipped_files(folder: Path) -> list[Shipped]:
    """The files of ``folder`` that Ray would upload, by .gitignore, .rayignore and its defaults.

    Reads no file contents, so a folder full of data costs nothing.
    """
    found: list[Shipped] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append(Shipped(str(path.relative_to(folder)), path.stat().st_size))

    visit_shipped(folder, [".git", ".venv", "venv", "__pycache__"], note)
    return sorted(found, key=lambda file: -file.size)


def check_shipped(files: Iterable[Shipped]) -> Finding:
    """Check that the upload is small and holds no secrets. ``files``: the largest first."""
    files = list(files)
    total = sum(file.size for file in files)
    said = f"{len(files)} files, {total / MIB:.1f} MiB would be uploaded"
    wrong = [file.path for file in files if _SECRET.search(file.path)]
    if wrong:
        said = f"would be uploaded to the cluster: {', '.join(wrong[:5])}"
    elif total > MOST_UPLOAD:
        wrong = [file.path for file in files]
        largest = ", ".join(f"{f.path} ({f.size / MIB:.0f} MiB)" for f in files[:3])
        said += f", expected at most {MOST_UPLOAD / MIB:.0f}; the largest: {largest}"
    return _judged("job folder", not wrong, said, f"echo '{''.join(wrong[:1])}' >> .rayignore")
