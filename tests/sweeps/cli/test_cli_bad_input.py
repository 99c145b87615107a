"""Every mistake ends in one paragraph and exit code 2, before anything has been started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import ray
from typer.testing import CliRunner, Result

from sweeps.cli import app
from sweeps.config.load import load_config
from sweeps.config.sweep_config import resolve_paths
from sweeps.execution.sweep import open_study


def nothing(folder: Path) -> None:
    """The files are as they should be."""


def append(name: str, line: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def replace(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def repeat_key(folder: Path) -> None:
    text = (folder / "sweep.yaml").read_text()
    (folder / "sweep.yaml").write_text('{"name": "first", ' + text.lstrip("{"))


def empty_folder(folder: Path) -> None:
    (folder / "no_model").mkdir()


def code_benchmark(sandbox: str) -> str:
    paths = "validation: validation.jsonl, test: test.jsonl"
    return f"domains.sums.benchmarks=[{{name: pass_at_1, {paths}, sandbox: {sandbox}}}]"


def mbpp_benchmark(validation: str, test: str) -> str:
    paths = f"validation: {validation}, test: {test}"
    return f"domains.sums.benchmarks=[{{name: mbpp, metric: bits_per_byte, {paths}}}]"


def mbpp_items(**task_ids: int) -> Callable[[Path], None]:
    """Files of one MBPP task each, whose number decides its split."""

    def change(folder: Path) -> None:
        for name, number in task_ids.items():
            row = {
                "task_id": number,
                "text": "Add.",
                "code": "def f(): ...",
                "test_setup_code": "",
            }
            (folder / f"{name}.jsonl").write_text(json.dumps({**row, "test_list": ["assert f"]}))

    return change


@dataclass(frozen=True)
class Mistake:
    """What is typed after the file's name, what is wrong with the files, what must be said."""

    says: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    change: Callable[[Path], None] = nothing
    file: str = "sweep.yaml"


BENCHMARK = "{name: exact_match, validation: validation.jsonl, test: test.jsonl}"

MISTAKES = {
    "unknown key": Mistake(
        ("unknown key 'search.trails'", "did you mean 'trials'?"), ("search.trails=4",)
    ),
    "unknown key at the top": Mistake(("unknown key 'modle'", "'model'"), ("modle.path=x",)),
    "ratio 1.0": Mistake(
        ("space.mask_ratio: expected a fraction in [0, 1)", "got 1.0"), ("space.mask_ratio=1.0",)
    ),
    "ratio -0.1": Mistake(
        ("space.mask_ratio: expected a fraction in [0, 1)", "got -0.1"), ("space.mask_ratio=-0.1",)
    ),
    "batch that does not divide": Mistake(
        ("examples", "multiple of the effective batch 24", "got 64"),
        ("space.accumulation_interval=[1, 3]",),
    ),
    "global batch that does not divide": Mistake(
        ("global_batch", "2 x 4 = 8", "got 12"),
        (
            "training.batch={fixed: global_batch, global_batch: 12}",
            "training.examples=48",
            "space.accumulation_interval=2",
            "resources.workers=4",
        ),
    ),
    "missing data file": Mistake(("train.jsonl",), (), remove("train.jsonl")),
    "data file with a broken row": Mistake(
        ("train.jsonl, line 5", "expected one JSON object"),
        (),
        append("train.jsonl", '{"prompt": "1'),
    ),
    "data file with a field missing": Mistake(
        ("train.jsonl, line 5", "response"), (), append("train.jsonl", '{"prompt": "1"}')
    ),
    "empty data file": Mistake(
        ("domain 'sums'", "train.jsonl: expected at least one example"),
        (),
        replace("train.jsonl", ""),
    ),
    "blank data file": Mistake(
        ("train.jsonl", "one example"), (), replace("train.jsonl", "\n \n")
    ),
    "data file with an empty list": Mistake(
        ("train.jsonl", "one example"), (), replace("train.jsonl", "[]")
    ),
    "data file with a header only": Mistake(
        ("train.csv", "one example"),
        ("domains.sums.data.path=train.csv",),
        replace("train.csv", "prompt,response\n"),
    ),
    "one empty data file of two": Mistake(
        ("more.jsonl: expected at least one example",),
        ('domains.sums.data.path="train.jsonl,more.jsonl"',),
        replace("more.jsonl", ""),
    ),
    "empty validation file": Mistake(
        (
            "domain 'sums': benchmark 'exact_match': ",
            "validation.jsonl: expected at least one row",
        ),
        (),
        replace("validation.jsonl", ""),
    ),
    "empty test file": Mistake(
        ("domain 'sums': benchmark 'exact_match': ", "test.jsonl: expected at least one row"),
        (),
        replace("test.jsonl", "\n\n"),
    ),
    "benchmark in a chat template that is not there": Mistake(
        ("benchmark 'exact_match': prompt_format: 'chat' requires a tokenizer with a chat templ",),
        ("domains.sums.benchmarks.0.prompt_format=chat",),
    ),
    "broken test row": Mistake(
        ("domain 'sums': ", "test.jsonl:5: expected", "invalid JSON"),
        (),
        append("test.jsonl", "{"),
    ),
    "validation file without an item of its split": Mistake(
        ("domain 'sums': benchmark 'mbpp'", "one validation item in", "validation.jsonl"),
        (mbpp_benchmark("validation.jsonl", "test.jsonl"),),
        mbpp_items(validation=11, test=11),
    ),
    "test file without an item of its split": Mistake(
        ("domain 'sums': benchmark 'mbpp'", "one test item in", "test.jsonl"),
        (mbpp_benchmark("validation.jsonl", "test.jsonl"),),
        mbpp_items(validation=511, test=601),
    ),
    "path that ends in a comma": Mistake(
        ("domains.sums.data.path", "a path, or several separated by commas", "'train.jsonl,'"),
        ("domains.sums.data.path='train.jsonl,'",),
    ),
    "path of blanks": Mistake(("domains.sums.data.path",), ("domains.sums.data.path=' '",)),
    "model without a path": Mistake(
        ("model.path: expected a path or a name, got ''",), ("model.path=''",)
    ),
    "benchmark without a file": Mistake(
        ("domains.sums.benchmarks.0.test: expected a path or a name, got ' '",),
        ("domains.sums.benchmarks.0.test=' '",),
    ),
    "benchmark file with a broken row": Mistake(
        ("validation.jsonl:5",), (), append("validation.jsonl", "{")
    ),
    "benchmark file with a field missing": Mistake(
        ("validation.jsonl:5", "answer"), (), append("validation.jsonl", '{"id": "x"}')
    ),
    "missing benchmark file": Mistake(("validation.jsonl",), (), remove("validation.jsonl")),
    "missing test file": Mistake(("test.jsonl", "exact_match"), (), remove("test.jsonl")),
    "model folder that is not one": Mistake(
        ("no_model", "config.json"), ("model.path=./no_model",), empty_folder
    ),
    "model folder that is absent": Mistake(
        ("absent", "model folder"), ("model.path=./absent",), nothing
    ),
    "model that is a file": Mistake(("train.jsonl",), ("model.path=train.jsonl",)),
    "MLflow that does not answer": Mistake(
        ("http://127.0.0.1:9", "does not respond"), ("tracking.uri=http://127.0.0.1:9",)
    ),
    "tracking address of no known kind": Mistake(("ftp://x",), ("tracking.uri=ftp://x",)),
    "storage in a bucket": Mistake(
        ("storage", "'s3:/bucket/runs'", "did you mean 's3://bucket/runs'"),
        ("storage=s3:/bucket/runs",),
    ),
    "storage below a file": Mistake(
        ("storage", "cannot be written"), ("storage=train.jsonl/below",)
    ),
    "storage that is a file": Mistake(("storage", "cannot be written"), ("storage=train.jsonl",)),
    "unknown benchmark": Mistake(
        ("'exact_mach'", "'exact_match'"), ("domains.sums.benchmarks.0.name=exact_mach",)
    ),
    "unknown metric": Mistake(
        ("'acuracy'", "'accuracy'"), ("domains.sums.benchmarks.0.metric=acuracy",)
    ),
    "unknown sampler": Mistake(("search.sampler", "'tpe'"), ("search.sampler=tpee",)),
    "unknown data format": Mistake(
        ("domains.sums.data.format", "'alpaca'"), ("domains.sums.data.format=alpacca",)
    ),
    "unknown sandbox level": Mistake(
        ("sandbox level 'rlimit'", "rlimits"), (code_benchmark("rlimit"),)
    ),
    "override without =": Mistake(("'search.trials'", "key=value"), ("search.trials",)),
    "key that stands twice": Mistake(("duplicate key 'name'",), (), repeat_key),
    "YAML that is a list": Mistake(("found list",), (), replace("sweep.yaml", "- a\n- b\n")),
    "text with a sign of YAML": Mistake(
        ("override 'domains.sums.data.path=,'", "special characters needs quotes"),
        ("domains.sums.data.path=,",),
    ),
    "misspelt word for a section": Mistake(
        ("search.scheduler", "such as {name: asha}, got 'ahsa'"), ("search.scheduler=ahsa",)
    ),
    "key that only holds an anchor": Mistake(
        (
            "unknown key 'defaults' (expected one of: ",
            "; a key that only holds YAML anchors starts with x-, such as 'x-defaults'",
        ),
        ("defaults={a: 1}",),
    ),
    "no YAML": Mistake(("not valid YAML",), (), replace("sweep.yaml", "a: [1\n")),
    "missing configuration": Mistake(
        ("no such configuration file", "mini.yaml"), (), remove("sweep.yaml")
    ),
    "unknown mini: name": Mistake(
        ("'mini:math/trian.jsonl'", "'mini:math/train.jsonl'"),
        ("domains.sums.data.path=mini:math/trian.jsonl",),
    ),
    "starting point outside of the space": Mistake(
        ("search.start: mask_ratio 0.95",), ("search.start=[{mask_ratio: 0.95}]",)
    ),
    "hook that calls nobody": Mistake(
        ("hooks.on_end", "expected a command, a webhook, or both"), ("hooks.on_end={}",)
    ),
    "webhook that is no address": Mistake(
        ("hooks.on_failure", "http://"), ("hooks.on_failure.webhook=example.org",)
    ),
    "unknown occasion of a hook": Mistake(
        ("unknown key 'hooks.on_fail'", "'on_failure'"), ("hooks.on_fail.command=ls",)
    ),
    "money without a price": Mistake(
        ("budget", "price_per_gpu_hour"), ("budget.money=10", "resources.gpus_per_worker=1")
    ),
    "GPU-hours without a GPU": Mistake(
        ("gpu_hours", "resources.gpus_per_worker is 0"), ("budget.gpu_hours=1",)
    ),
    "budget of nothing": Mistake(
        ("budget.wall_hours", "greater than 0"), ("budget.wall_hours=0",)
    ),
    "unknown budget": Mistake(
        ("unknown key 'budget.wall_hour'", "'wall_hours'"), ("budget.wall_hour=1",)
    ),
    "failed share above 1": Mistake(
        ("failures.most_failed_share", "got 1.5"), ("failures.most_failed_share=1.5",)
    ),
    "unknown way with trials out of memory": Mistake(
        ("failures.on_oom", "'halve'"), ("failures.on_oom=halv",)
    ),
    "unknown kind of trial group": Mistake(
        ("resources.trial_group", "'warm'"), ("resources.trial_group=wram",)
    ),
    "no workers": Mistake(("resources.workers", "got 0"), ("resources.workers=0",)),
    "half a trial": Mistake(("search.trials", "2.5"), ("search.trials=2.5",)),
    "a word for a number": Mistake(("training.examples", "'many'"), ("training.examples=many",)),
    "NaN for a learning rate": Mistake(
        ("space.learning_rate: expected a number above 0, got nan",), ("space.learning_rate=.nan",)
    ),
    "endless learning rate": Mistake(
        ("space.learning_rate: expected a number above 0, got inf",), ("space.learning_rate=.inf",)
    ),
    "range upside down": Mistake(
        ("low 0.5 is above high 0.1",), ("space.mask_ratio={low: 0.5, high: 0.1}",)
    ),
    "steps that miss the end": Mistake(
        ("steps of 0.2", "do not end at high 0.9"),
        ("space.mask_ratio={low: 0.0, high: 0.9, step: 0.2}",),
    ),
    "logarithm of nothing": Mistake(
        ("logarithmic", "low above 0"), ("space.learning_rate={low: 0, high: 1, log: true}",)
    ),
    "no choice at all": Mistake(("accumulation_interval",), ("space.accumulation_interval=[]",)),
    "interval of a half": Mistake(
        ("space.accumulation_interval: expected a whole number of mini-batches", "got 1.5"),
        ("space.accumulation_interval=[1.5]",),
    ),
    "examples longer than the context": Mistake(
        ("data.max_length", "at most the model's context"),
        ("domains.sums.data.max_length=100000",),
    ),
    "name with a slash": Mistake(("name",), ("name=a/b",)),
    "domain with a blank": Mistake(
        ("domain 'my sums'",),
        (f"domains.my sums={{data: {{path: train.jsonl}}, benchmarks: [{BENCHMARK}]}}",),
    ),
    "no domain": Mistake(("domains",), ("domains={}",)),
    "no benchmark": Mistake(("domains.sums.benchmarks",), ("domains.sums.benchmarks=[]",)),
    "sensitivity without a margin": Mistake(
        ("margin is missing",), ("study.kind=sensitivity", "study.nuisance=null")
    ),
    "unknown kind of study": Mistake(("study.kind", "'methods'"), ("study.kind=method",)),
    "design without its nuisance parameters": Mistake(
        ("study.nuisance is missing",), ("study.kind=drop",)
    ),
    "unknown study of the paper": Mistake(
        ("study.paper.0: unknown value 'serch' (did you mean 'search'?)\n",),
        ("study.paper=[serch]",),
    ),
    "neither a number of models nor all": Mistake(
        ("keep.models: ", "got 'none'; keep.models: unknown value 'none' (expected one of: all)"),
        ("keep.models=none",),
    ),
    "neither auto nor true nor false": Mistake(
        ("model.add_bos: unknown value 'ture' (did you mean 'true'?)\n",),
        ("model.add_bos=ture",),
    ),
    "domains in no known order": Mistake(
        ("resources.domains", "'side_by_side'"), ("resources.domains=side_by_sid",)
    ),
    "file that is not UTF-8": Mistake(
        ("cannot be read as a text file",),
        (),
        lambda folder: (folder / "sweep.yaml").write_bytes(b"name: caf\xe9"),
    ),
    "empty file": Mistake(("found an empty file",), (), replace("sweep.yaml", "")),
    "key that is a number": Mistake(("line 1", "found 1"), (), replace("sweep.yaml", "1: 2")),
    "override of what is no list": Mistake(
        ("'7' is not an index into a list of 1",), ("domains.sums.benchmarks.7.name=x",)
    ),
    "override below a number": Mistake(
        ("override 'training.examples.more=1'",), ("training.examples.more=1",)
    ),
    "override that is no YAML": Mistake(
        ("override 'search.trials=[1'", "not valid YAML"), ("search.trials=[1",)
    ),
    "a file's name misspelt": Mistake(("did you mean 'sweep.yaml'?",), (), nothing, "swep.yaml"),
    "a folder that is no sweep's": Mistake(
        ("no sweep.yaml in this folder", "STORAGE/NAME"), (), empty_folder, "no_model"
    ),
    "a revision of a local folder": Mistake(
        ("model.revision: a local folder has no revision",), ("model.revision=main",)
    ),
    "a folder of another name": Mistake(("to have its sweep's name, 'small'",), (), nothing, "."),
}

COMMAND_LINES = {
    "unknown command": (["leaderbord", "sweep.yaml"], "'leaderboard'"),
    "unknown option": (["run", "sweep.yaml", "--adpot"], "--adopt"),
    "option that went": (["run", "sweep.yaml", "--join"], "no such option: --join"),
    "no configuration": (["status"], "missing argument 'CONFIG'"),
    "word for a number": (
        ["leaderboard", "sweep.yaml", "--top", "ten"],
        "'--top': expected a number. See",
    ),
    "number out of bounds": (
        ["leaderboard", "sweep.yaml", "--top", "0"],
        "'--top': expected a number greater than or equal to 1",
    ),
    "option without its value": (["plan", "sweep.yaml", "--price"], "--price"),
    "two options that exclude each other": (
        ["plan", "sweep.yaml", "--measure", "--seconds-per-step", "1"],
        "give one of --measure, --seconds-per-step and --samples-per-second",
    ),
    "option that lacks its partner": (
        ["plan", "sweep.yaml", "--seconds-per-check", "1"],
        "--seconds-per-step",
    ),
    "negative time": (["plan", "sweep.yaml", "--seconds-per-step", "-1"], "'--seconds-per-step'"),
    "status of what never ran": (["status", "sweep.yaml"], "no sweep named 'small'"),
    "export into what exists": (["export", "sweep.yaml"], "missing argument 'FOLDER'"),
    "unknown kind of failure": (["retry", "sweep.yaml", "--kind", "omm"], "mean 'oom'"),
    "retry of nothing": (["retry", "sweep.yaml"], "specify --failed or --kind"),
    "resume of what never ran": (["resume", "sweep.yaml"], "nothing to resume"),
    "stop of what never ran": (["stop", "sweep.yaml"], "nothing to stop"),
    "paper without its margin": (["paper", "sweep.yaml"], "study.margin is missing"),
    "unknown option of no command": (["--versoin"], "--versoin"),
    "init of a model in nobody's home": (
        ["init", "new.yaml", "--model", "~nouser/x", "--domain", "math"],
        "unknown home folder in '~nouser/x'",
    ),
    "init below a file": (["init", "sweep.yaml/new.yaml"], "sweep.yaml is a file"),
    "data without the benchmark's name": (
        ["eval", "m", "--benchmarks", "gsm8k", "--data", "FILE"],
        "such as gsm8k=FILE, got 'FILE'",
    ),
    "finetune without a file": (["finetune", "absent.yaml"], "no such configuration file"),
    "finetune with a sweep's file": (["finetune", "sweep.yaml"], "unknown key 'name'"),
}


@pytest.fixture(autouse=True)
def no_ray() -> Iterator[None]:
    assert not ray.is_initialized()
    yield
    assert not ray.is_initialized()


def call(command: str, *arguments: str) -> Result:
    return CliRunner().invoke(app.app, [command, *arguments])


def recorded(domain: str) -> optuna.Study:
    """The domain's study in the storage, made as a run makes it."""
    return open_study(resolve_paths(load_config("sweep.yaml")), domain)


def assert_refused(result: Result) -> str:
    """One paragraph on stderr, nothing on stdout; returns it."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    message = result.stderr
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    for noise in ("Traceback", "validation error", "pydantic", "UserError"):
        assert noise not in message
    return message


CALLS = [("validate", name) for name in MISTAKES] + [("run", name) for name in [*MISTAKES][::6]]


@pytest.mark.parametrize(("command", "name"), CALLS)
def test_refused_before_anything_starts(sweep_files: Path, command: str, name: str) -> None:
    mistake = MISTAKES[name]
    mistake.change(sweep_files)
    before = {path.relative_to(sweep_files) for path in sweep_files.rglob("*")}
    message = assert_refused(call(command, mistake.file, *mistake.overrides))
    for words in mistake.says:
        assert words in message
    # No storage, no tracking database, no half-made study.
    assert {path.relative_to(sweep_files) for path in sweep_files.rglob("*")} == before


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_mistyped_command_line(sweep_files: Path, name: str) -> None:
    arguments, says = COMMAND_LINES[name]
    assert says in assert_refused(call(*arguments))
    assert not (sweep_files / "runs").exists()


def test_nothing_typed_shows_the_help() -> None:
    result = CliRunner().invoke(app.app, [])
    assert result.exit_code == 0
    assert "leaderboard" in result.stdout


def test_without_a_mistake_validate_agrees_and_leaves_nothing(sweep_files: Path) -> None:
    before = set(sweep_files.rglob("*"))
    result = call("validate", "sweep.yaml", "space.mask_ratio=[0, 0.2]")
    assert result.exit_code == 0, result.output
    assert "3 trials, domain sums" in result.stdout
    assert "python -m sweeps run sweep.yaml 'space.mask_ratio=[0, 0.2]'" in result.stdout
    assert set(sweep_files.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "validate"])
def test_another_protocol_under_the_same_name(sweep_files: Path, command: str) -> None:
    study = recorded("sums")
    changes = ("training.clip_norm=2", "space.mask_ratio=[0, 0.2]")
    message = assert_refused(call(command, "sweep.yaml", *changes))
    assert "a study named 'small' with a different definition" in message
    assert "training.clip_norm" in message
    assert "mask_ratio" not in message  # a space may change
    assert "jsonl" not in message  # only what differs is named
    assert "name=small2" in message
    assert study.trials == []
    assert not (sweep_files / "runs" / "mlflow.db").exists()


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_who_only_reads_is_not_refused_for_an_edited_file(sweep_files: Path, command: str) -> None:
    study = recorded("sums")
    result = call(command, "sweep.yaml", "space.mask_ratio=[0, 0.2]")
    assert result.exit_code == 0, result.output
    assert "sums" in result.stdout
    assert study.trials == []


def test_more_trials_of_the_same_study_are_no_mistake(sweep_files: Path) -> None:
    recorded("sums")
    assert call("validate", "sweep.yaml", "search.trials=30").exit_code == 0
    assert call("validate", "sweep.yaml", "space.mask_ratio=[0, 0.2]").exit_code == 0


def test_one_changed_domain_stops_the_others_too(sweep_files: Path) -> None:
    recorded("sums")
    tree = json.loads((sweep_files / "sweep.yaml").read_text())
    tree["domains"] = {"first": tree["domains"]["sums"], "sums": tree["domains"]["sums"]}
    tree["domains"]["sums"] = {**tree["domains"]["sums"], "examples": 32}
    (sweep_files / "sweep.yaml").write_text(json.dumps(tree))
    assert "domain.examples: was the default, now 32" in assert_refused(call("run", "sweep.yaml"))
    storage = f"sqlite:///{sweep_files / 'runs' / 'small' / 'optuna.db'}"
    assert optuna.get_all_study_names(storage) == ["small/sums"]


@pytest.mark.parametrize("command", ["report", "leaderboard"])
def test_nothing_to_show_yet(sweep_files: Path, command: str) -> None:
    message = assert_refused(call(command, "sweep.yaml"))
    assert "no sweep named 'small'" in message
    assert not (sweep_files / "runs").exists()
