"""Each check by itself: fine, and the failure with the command that mends it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps.cli import doctor, doctor_checks
from sweeps.cli.doctor_checks import (
    DECIDING,
    GIB,
    MIB,
    Finding,
    Gpu,
    Shipped,
    check_installed,
    check_same,
    check_shadowed,
    read_pins,
    versions,
)
from sweeps.execution import shared_storage
from sweeps.finetune import memory_check
from sweeps.finetune.disk_check import free_disk

ROOT = Path(__file__).resolve().parents[3]
HERE = {"python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0"}


def failed(finding: Finding) -> bool:
    """A failure says what mends it."""
    assert finding.said
    assert finding.ok or finding.fix
    return not finding.ok


def test_versions_of_this_machine_are_the_pinned_ones() -> None:
    found, pins = versions(), read_pins(ROOT / "constraints.txt")
    assert set(found) == {"python", *DECIDING}
    assert set(pins) >= set(DECIDING)
    assert not failed(check_installed(found, pins))
    assert read_pins(ROOT / "no_such_file") == {}


def test_versions_that_are_missing_or_other() -> None:
    assert failed(check_installed({**HERE, "ray": "missing"}, {}))
    advice = check_installed(HERE, {"torch": "2.14.0"})
    assert advice.ok and advice.fix and "torch 2.14.0" in advice.said


@pytest.mark.parametrize(
    ("there", "wrong"),
    [
        (HERE, False),
        ({**HERE, "torch": "2.13.0+cu130"}, False),  # the same release, built for GPUs
        ({**HERE, "torch": "2.12.0"}, True),
        ({**HERE, "python": "3.12.1"}, True),
        ({"python": "3.11.7", "torch": "2.13.0"}, True),
    ],
)
def test_a_node_has_the_driver_s_versions(there: dict[str, str], wrong: bool) -> None:
    assert failed(check_same(HERE, there)) == wrong


def test_another_package_called_sweeps() -> None:
    assert not failed(check_shadowed({"sweeps": ["gmt-sweep"]}, ROOT))
    assert not failed(check_shadowed({}, ROOT))  # run from a checkout, not installed
    finding = check_shadowed({"sweeps": ["gmt-sweep", "sweeps"]}, ROOT)
    assert failed(finding) and finding.fix == "pip uninstall sweeps"


@pytest.mark.parametrize(
    ("found", "wanted", "present", "wrong"),
    [
        ([], 0, False, False),
        ([], 1, False, True),
        ([], 0, True, True),  # a GPU without a torch that can use it
        ([Gpu("A", 24 * GIB)], 1, True, False),
        ([Gpu("A", 24 * GIB)], 2, True, True),
        ([Gpu("A", 24 * GIB)], 0.5, True, False),
    ],
)
def test_gpus(found: list[Gpu], wanted: float, present: bool, wrong: bool) -> None:
    assert failed(doctor_checks.check_gpus(found, wanted, present)) == wrong


def test_the_kernels_of_masks_are_launched_once() -> None:
    assert doctor_checks.check_masks([]) == []
    (right,) = doctor_checks.check_masks([Gpu("A", 24 * GIB)], "cpu")
    assert right.ok and right.said == "a mask on the GPU equals the CPU's"
    (wrong,) = doctor_checks.check_masks([Gpu("A", 24 * GIB)], "meta")
    assert failed(wrong) and "gcc" in wrong.fix


def test_disk_and_memory(tmp_path: Path) -> None:
    assert not failed(doctor_checks.check_disk(20 * GIB, tmp_path))
    assert failed(doctor_checks.check_disk(9 * GIB, tmp_path))
    assert not failed(doctor_checks.check_memory(3 * GIB))
    assert failed(doctor_checks.check_memory(GIB))
    assert free_disk(tmp_path / "not" / "there" / "yet") > 0
    assert 0 < memory_check.free_memory() < 2**50


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    assert memory_check.container_rest(tmp_path) == 2**63
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert memory_check.container_rest(tmp_path) == 2**63 - 100
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory_check.container_rest(tmp_path) == 900


@pytest.mark.parametrize(
    ("there", "wrong"), [(100.5, False), (97.0, True), (98.5, False), (105.0, True)]
)
def test_clock(there: float, wrong: bool) -> None:
    assert failed(doctor_checks.check_clock(100.0, there, 101.0)) == wrong


def test_storage_that_can_be_written_or_not(tmp_path: Path) -> None:
    assert not failed(doctor_checks.check_writable(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "file").touch()
    assert failed(doctor_checks.check_writable(tmp_path / "file" / "runs"))


def test_storage_that_a_node_shares(tmp_path: Path) -> None:
    with shared_storage.probe(tmp_path) as word:
        problem = shared_storage.answer(tmp_path, word, "node")
        assert not failed(doctor_checks.check_shared(tmp_path, word, "node", problem))
    assert list(tmp_path.iterdir()) == []


def test_storage_that_is_another_folder_on_the_node(tmp_path: Path) -> None:
    with shared_storage.probe(tmp_path / "driver") as word:
        (tmp_path / "node").mkdir()
        problem = shared_storage.answer(tmp_path / "node", word, "node")
        finding = doctor_checks.check_shared(tmp_path / "driver", word, "node", problem)
        assert failed(finding) and "not visible" in finding.said
        # It sees ours, as a copy that is synchronized in one direction would show it.
        assert failed(doctor_checks.check_shared(tmp_path / "driver", word, "node", ""))


def test_mlflow_answers_or_says_why(tmp_path: Path) -> None:
    fine, no_folder = f"sqlite:///{tmp_path / 'm.db'}", "sqlite:////no/such/folder/m.db"
    assert not failed(doctor_checks.check_tracker(fine, doctor_checks.tracker_problem(fine)))
    assert failed(doctor_checks.check_tracker(no_folder, doctor_checks.tracker_problem(no_folder)))
    refused = doctor_checks.check_tracker(
        "http://user:secret@head:5000", "refuses this host (403)"
    )
    assert failed(refused) and "--allowed-hosts head:5000" in refused.fix
    assert "secret" not in refused.fix + refused.said


def test_sandbox_levels() -> None:
    assert not doctor_checks.check_sandbox("bubblewrap").fix
    weak = doctor_checks.check_sandbox("rlimits")
    assert weak.ok and weak.fix
    assert failed(doctor_checks.check_sandbox(""))
    assert doctor_checks.sandbox_level() in ("bubblewrap", "rlimits")


def test_little_is_shipped_and_nothing_secret() -> None:
    small = Shipped("sweeps/cli.py", 5000)
    assert not failed(doctor_checks.check_shipped([small]))
    large = doctor_checks.check_shipped([Shipped("data/train.txt", 60 * MIB), small])
    assert failed(large) and "data/train.txt (60 MiB)" in large.said
    for name in (".env", "keys/id_ed25519", "a.pem", ".ray/auth_token", ".aws/credentials"):
        finding = doctor_checks.check_shipped([small, Shipped(name, 10)])
        assert failed(finding) and name in finding.said, name


def test_what_would_be_shipped_is_what_ray_packs(tmp_path: Path) -> None:
    from ray._private.runtime_env.packaging import create_package

    folder = tmp_path / "project"
    for name in (".git/objects/x", "data/a.txt", "code/a.py", "code/skip.py", "w.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_text("/data/\n")
    (folder / ".rayignore").write_text("*.safetensors\n")
    (folder / "code" / ".gitignore").write_text("skip.py\n")
    ours = {file.path for file in doctor_checks.shipped_files(folder)}
    target = tmp_path / "package.zip"
    create_package(
        str(folder), target, include_gitignore=True, include_parent_dir=False, excludes=[".git"]
    )
    import zipfile

    packed = {name for name in zipfile.ZipFile(target).namelist() if not name.endswith("/")}
    assert ours == packed == {".gitignore", ".rayignore", "code/.gitignore", "code/a.py"}


def test_this_repository_ships_its_code_and_the_embedded_world_alone() -> None:
    files = doctor_checks.shipped_files(ROOT)
    assert not failed(doctor_checks.check_shipped(files))
    names = {file.path for file in files}
    code = {
        str(path.relative_to(ROOT))
        for package in ("gmt_core", "evaluators", "sweeps")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert code and code <= names
    assert not any(re.match(r"(tests|docs|benchmarks|\.git|\.venv)/", name) for name in names)


def test_a_node_is_asked_what_the_driver_is(tmp_path: Path) -> None:
    tracker = f"sqlite:///{tmp_path / 'm.db'}"
    with shared_storage.probe(tmp_path) as word:
        question = doctor.Question(str(tmp_path), tracker, word, "node", versions())
        found = doctor.look(question)
        findings = doctor.judge(question, found, found.clock, found.clock)
    by_name = {finding.name: finding for finding in findings}
    assert {"versions", "GPUs", "storage", "clock", "sandbox", "MLflow"} <= set(by_name)
    assert by_name["storage"].ok and by_name["versions"].ok and by_name["clock"].ok


def test_nodes_are_of_one_kind_by_what_they_offer() -> None:
    node = {"Resources": {"CPU": 8.0, "GPU": 4.0, "memory": 1.0, "node:10.0.0.1": 1.0}}
    assert doctor.amounts(node) == "8 CPU, 4 GPU"
    assert doctor.amounts({"Resources": {}}) == "no CPU, no GPU"
