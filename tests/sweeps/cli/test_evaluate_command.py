"""`python -m sweeps eval`: scores, files, an interruption that loses nothing, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import ANY

import pytest
from typer.testing import CliRunner

from sweeps.cli.app import app
from sweeps.execution import evaluation_run
from tests.evaluators.conftest import build_model
from tests.evaluators.conftest import tokenizer as _tokenizer
from tests.evaluators.harness_tasks import write_task

tokenizer = _tokenizer


@pytest.fixture
def world(tmp_path, tokenizer, monkeypatch) -> Path:
    """A model folder, the data of two benchmarks, and a small chunk."""
    build_model(tokenizer).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = [
        {"id": f"m{n}", "prompt": f"{n}?", "choices": [" a", " b"], "answer": n % 2}
        for n in range(9)
    ]
    write(tmp_path / "data" / "multiple_choice.jsonl", rows)
    rows = [{"question": f"{n} + 1?", "answer": f"so #### {n + 1}"} for n in range(7)]
    write(tmp_path / "questions.jsonl", rows)
    monkeypatch.setattr(evaluation_run, "CHUNK", 2)
    return tmp_path


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def call(world: Path, *words: str, cache: str = "cache"):
    return CliRunner().invoke(
        app,
        [
            *("eval", str(world / "model"), "--data-folder", str(world / "data")),
            *("--data", f"gsm8k={world / 'questions.jsonl'}", "--cache", str(world / cache)),
            *("--device", "cpu", "--benchmarks", "multiple_choice,gsm8k", "--preset", "full"),
            *words,
        ],
    )


def scores(done) -> dict:
    """What `--json` printed, without the time it took."""
    found = json.loads(done.stdout)["result"]
    for result in found["results"].values():
        del result["seconds"]
    return found


def test_a_model_folder_is_scored(world):
    done = call(world, "--samples-out", str(world / "items"))
    assert done.exit_code == 0, done.output
    assert "multiple_choice" in done.stdout and "95 % interval" in done.stdout
    found = scores(call(world, "--json"))
    written = json.loads((world / "items" / "scores.json").read_text())
    assert written["results"]["gsm8k"] == found["results"]["gsm8k"] | {"seconds": ANY}
    assert found["results"]["multiple_choice"]["n"] == 9
    assert found["results"]["gsm8k"]["n"] == 7
    assert len(found["weights_sha256"]) == 64
    lines = (world / "items" / "gsm8k.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [f"gsm8k/{n}" for n in range(1, 8)]
    few = call(world, "--limit", "3", "--json")
    assert few.exit_code == 0
    assert {r["n"] for r in scores(few)["results"].values()} == {3}


def test_own_benchmarks_have_short_names_and_programs_their_sandbox(world):
    row = {"q": "def f():\n", "body": "    return 1\n", "a": "1", "tests": ["assert f() == 1"]}
    write(world / "own.jsonl", [row])
    head = "version: '1'\nprompt: '{q}'\nmax_new_tokens: 4\n"
    forms = {"sums": "exact_match\nanswer: '{a}'", "code": "pass_at_k"}
    for name, form in forms.items():
        (world / f"{name}_file.yaml").write_text(f"name: {name}\n{head}form: {form}\n")
    paths = [str(world / f"{name}_file.yaml") for name in forms]
    words = ["--benchmarks", ",".join([*paths, "gsm8k"]), "--sandbox", "rlimits"]
    words += [word for path in paths for word in ("--data", f"{path}={world / 'own.jsonl'}")]
    done = call(world, *words)
    assert done.exit_code == 0, done.output
    names = [line.split("│")[1].strip() for line in done.stdout.splitlines() if "│" in line]
    assert names == ["sums", "code", "gsm8k"]
    (world / "code_file.yaml").write_text((world / "sums_file.yaml").read_text())
    done = call(world, *words)
    assert done.exit_code == 2 and "runs no generated code" in done.output
    done = call(world, *(word for word in words if word not in ("--sandbox", "rlimits")))
    assert done.exit_code == 2
    assert "expected names that differ" in " ".join(done.output.split())
    assert "found 'sums' and 'sums'" in " ".join(done.output.split())


def test_bos_left_out_is_another_score(world):
    """The records of one are never those of the other: they share a cache."""
    found = {}
    for word in ("auto", "true", "false"):
        done = call(world, "--add-bos", word, "--json")
        assert done.exit_code == 0, done.output
        found[word] = scores(done)["results"]["gsm8k"]
    assert found["true"] == found["auto"]  # this tokenizer adds BOS by itself
    bits = [found[word]["metrics"]["bits_per_byte"] for word in ("auto", "false")]
    assert bits[0] != bits[1]
    assert found["false"]["protocol_sha256"] != found["auto"]["protocol_sha256"]
    assert len(list((world / "cache").iterdir())) == 4


def test_interrupted_and_resumed_equals_uninterrupted(world, monkeypatch):
    whole = call(world, "--json", cache="one")
    assert whole.exit_code == 0
    real = evaluation_run.evaluate
    left = [3]

    def interrupted(lm, benchmark, items, *, progress, **rest):
        def step(done: int) -> None:
            progress(done)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        return real(lm, benchmark, items, progress=step, **rest)

    monkeypatch.setattr(evaluation_run, "evaluate", interrupted)
    stopped = call(world, "--json", cache="two")
    assert stopped.exit_code == 130 and "run the same command to resume" in stopped.output
    assert json.loads(stopped.stdout)["result"] is None
    kept = sum(len(p.read_text().splitlines()) for p in (world / "two").iterdir())
    assert kept == 6
    resumed = call(world, "--json", cache="two")
    assert resumed.exit_code == 0
    assert scores(resumed) == scores(whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--benchmarks", "gsm8"], "Did you mean 'gsm8k'"),
        (["--benchmarks", ","], "expected names such as gsm8k,mmlu"),
        (["--preset", "fool"], "Unknown preset of gsm8k 'fool'"),
        (["--split", "tset"], "Did you mean 'test'"),
        (["--dtype", "float8"], "Unknown dtype"),
        (["--add-bos", "True"], "Unknown add-bos 'True'"),
        (["--data", "gsm8k"], "expected NAME=SOURCE"),
        (["--prompt-format", "alpacca"], "Did you mean 'alpaca'?"),
        (["--prompt-format", "chat"], "requires a tokenizer with a chat template"),
        (["--data", "mmlu=x"], "benchmark in --data"),
        (["--data", "gsm8k=x.jsonl"], "--data: expected one source of gsm8k, found"),
        (["--benchmarks", "arc_easy,arc_challenge", "--preset", "tabel1"], "found 'tabel1'"),
        (["--benchmarks", "arc_easy,arc_challenge", "--sandbox", "rlimits"], "found 'rlimits'"),
        (["--benchmarks", "arc_easy,~nouser/own.yaml"], "unknown home folder in '~nouser/own"),
        (["--benchmarks", "lm_eval:arc_easy", "--data", "lm_eval:arc_easy=x"], "has its own data"),
        (["--benchmarks", "mmlu"], "mmlu: no data; expected --data mmlu=SOURCE"),
        (["--data", "gsm8k=nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_mistakes_are_one_sentence(world, words, said):
    if words[0] == "--benchmarks":
        done = CliRunner().invoke(app, ["eval", str(world / "model"), *words])
    else:
        done = call(world, *words)
    assert done.exit_code == 2
    assert said in done.output and "Traceback" not in done.output


def test_two_benchmarks_whose_files_would_be_one(world):
    text = "version: '1'\nform: exact_match\nprompt: '{question}'\nanswer: '{answer}'\n"
    for name in ("one", "two"):
        (world / name).mkdir()
        (world / name / "own.yaml").write_text(f"name: {name}\n{text}")
    names = ",".join(str(world / name / "own.yaml") for name in ("one", "two"))
    write(world / "data" / "own.jsonl", [{"question": "q", "answer": "a"}])
    done = call(world, "--benchmarks", f"gsm8k,{names}")
    assert done.exit_code == 2
    assert "expected names that differ, of the benchmarks and of their files" in done.output


def test_the_embedded_world_is_scored_by_its_names(world):
    words = ["--benchmarks", "multiple_choice", "--data"]
    words += ["multiple_choice=mini:general_choice/test.jsonl", "--limit", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, ["eval", "mini:model", *words, "--cache", str(world)])
    assert done.exit_code == 0, done.output
    assert "multiple_choice" in done.output


def test_a_missing_model_is_named(world):
    words = ["--benchmarks", "gsm8k", "--data", f"gsm8k={world / 'questions.jsonl'}"]
    done = CliRunner().invoke(app, ["eval", str(world / "nothing"), *words])
    assert done.exit_code == 2 and "nothing there" in done.output


def test_changes_of_the_protocol(world):
    """Of both benchmarks, or of one alone; each is another score."""
    prints = set()
    held = str(world / "questions.jsonl")
    for words in (
        (),
        ("--system-prompt", "Short."),
        ("--prompt-format", "alpaca"),
        ("--benchmarks", "gsm8k", "--preset", "plain", "--max-new-tokens", "3"),
        ("--benchmarks", "gsm8k", "--preset", "plain", "--temperature", "1", "--samples", "2"),
    ):
        done = call(world, *words, "--json")
        assert done.exit_code == 0, done.output
        prints.add(scores(done)["results"]["gsm8k"]["protocol_sha256"])
    assert len(prints) == 5
    assert "maj@2" in scores(done)["results"]["gsm8k"]["metrics"]
    done = call(world, "--shots", "2", "--shots-from", held)
    assert done.exit_code == 2
    assert "gsm8k: the protocol has 8 demonstrations of its own" in done.output


@pytest.mark.filterwarnings("ignore")  # of the harness's dependencies
def test_tasks_of_the_harness_beside_other_benchmarks(world, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(world / "datasets"))
    task = f"lm_eval:{write_task('arc', world, num_fewshot=0)}"
    both = ("--benchmarks", f"gsm8k,{task}", "--limit", "3")
    items = world / "items"
    done = call(world, *both, "--json", "--samples-out", str(items))
    assert done.exit_code == 0, done.output
    found = scores(done)["results"][task]
    assert (found["metric"], found["n"]) == ("acc", 3)
    assert found["metrics"].keys() >= {"acc", "acc_norm", "bits_per_byte"}
    lines = (items / "lm_eval_ours_arc.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["parts"].keys() == {"acc", "acc_norm"}
    wide = {"COLUMNS": "200"}
    compared = CliRunner().invoke(app, ["compare", str(items), str(items)], env=wide)
    assert compared.exit_code == 0 and "ours_arc" in compared.output
    done = call(world, "--benchmarks", "gsm8k,lm_eval:arc_eazy")
    assert done.exit_code == 2 and "Did you mean 'arc_easy'?" in " ".join(done.output.split())
