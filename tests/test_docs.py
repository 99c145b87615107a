"""What the documents say is there: links, make targets, modules, files, shipped configs."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import gmt_core
import sweeps
from sweeps.cli.arguments import complete_override
from sweeps.config.load import load_config

ROOT = Path(__file__).resolve().parent.parent
# Tracked or new, but never an ignored file (an environment holds thousands of documents).
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
).stdout.split("\n")
DOCUMENTS = sorted(name for name in LISTED if name.endswith(".md") and (ROOT / name).is_file())
CONFIGS = sorted(path.name for path in (ROOT / "sweeps" / "configs").glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A path in a command: has a folder or a well-known ending, and is no option, URL or placeholder.
PATH = re.compile(r"(?<![\w/.~$:=-])(?:[\w.-]+/)*[\w-]+\.(?:py|yaml|toml|txt|md|sh)(?![\w/])")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shell_blocks(name: str) -> str:
    kinds = {"", "bash", "sh", "shell", "console"}
    return "\n".join(body for kind, body in BLOCK.findall(text(name)) if kind in kinds)


def anchors(name: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text(name)), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_documents_and_configs_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} <= set(DOCUMENTS)
    assert CONFIGS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_lead_somewhere(name: str) -> None:
    for link in LINK.findall(BLOCK.sub("", text(name))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), f"{name} links to {link}, which is not there"
        if anchor and path.suffix == ".md":
            relative = str(path.resolve().relative_to(ROOT))
            assert anchor in anchors(relative), f"{name} links to {link}: no such heading"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_exist(name: str) -> None:
    named = set(re.findall(r"\bmake ([a-z]+)", shell_blocks(name)))
    named |= set(re.findall(r"`make ([a-z]+)`", text(name)))
    assert named <= TARGETS, f"{name} names {named - TARGETS}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_modules_exist(name: str) -> None:
    for module in re.findall(r"python3? -m ([\w.]+)", text(name)):
        assert importlib.util.find_spec(module), f"{name} runs {module}, which is not there"


@pytest.mark.parametrize("name", sorted({"README.md", "CONTRIBUTING.md"} & set(DOCUMENTS)))
def test_files_in_commands_exist(name: str) -> None:
    for path in PATH.findall(shell_blocks(name)):
        assert (ROOT / path).exists(), f"{name} names {path}, which is not there"


def test_the_tests_of_gpu_readiness_exist() -> None:
    files = [ROOT / name for name in LISTED if name.startswith("tests/") and name.endswith(".py")]
    there = {file.name for file in files}
    there |= {test for file in files for test in re.findall(r"def (test_\w+)", file.read_text())}
    named = set(re.findall(r"\b(test_\w+(?:\.py)?)", text("docs/gpu_readiness.md")))
    assert named and named <= there, f"the page names {named - there}"


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_load(name: str) -> None:
    assert load_config(ROOT / "sweeps" / "configs" / name).domains


def test_the_demo_has_its_config() -> None:
    demo = re.search(r"sweeps run (\S+)", text("Makefile"))
    assert demo is not None
    assert (ROOT / demo[1]).is_file()


def test_the_key_reference_is_that_of_the_schema() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "site" / "key_reference.py"))["reference"]()
    assert text("docs/keys.md") == written, "run python docs/site/key_reference.py"


def keys(section: str = "") -> Iterator[str]:
    """Every key, as completion offers them."""
    for key in complete_override(section):
        yield key[:-1]
        if key.endswith("."):
            yield from keys(key)


def test_every_key_is_in_the_reference() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", text("docs/keys.md"), re.M))
    assert {key.rpartition(".")[2] for key in keys()} <= rows


@pytest.mark.parametrize("package", [gmt_core, sweeps], ids=["gmt_core", "sweeps"])
def test_public_names_are_in_the_api_pages(package: object) -> None:
    name = package.__name__
    shown = re.findall(r"^::: (\S+)", text(f"docs/site/api_{name}.md"), re.M)
    assert {f"{name}.{each}" for each in package.__all__} <= set(shown)
