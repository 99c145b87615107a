"""Tasks of the harness as benchmarks: they score what the harness itself does."""

from __future__ import annotations

import importlib.util
import json
import random
import threading
from pathlib import Path

import pytest
import torch

from evaluators.benchmark import protocol_sha256
from evaluators.benchmarks import build
from evaluators.evaluate import evaluate
from evaluators.harness_guards import MissingHarness
from evaluators.language_model import LanguageModel
from evaluators.protocol import Changes
from tests.evaluators.conftest import build_model
from tests.evaluators.harness_tasks import DOCUMENTS, TASKS, write_task
from tests.evaluators.tokenizer_families import FAMILIES

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
    ),
    # What the harness's dependencies warn about is theirs.
    pytest.mark.filterwarnings("ignore"),
]
BY_NAME = {family.name: family for family in FAMILIES}
NOWHERE = Path("nowhere")  # a task knows where its data are


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def task(name: str, folder: Path, **changes) -> str:
    return f"lm_eval:{write_task(name, folder, **changes)}"


def loaded(family: str, folder: Path, context: int = 8192) -> LanguageModel:
    tokenizer = BY_NAME[family].load(folder / family)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(build_model(tokenizer, context=context).eval(), tokenizer)


def harness_says(lm: LanguageModel, name: str, folder: Path, **options) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model=HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=3),
        tasks=[f"ours_{name}"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **options,
    )


@pytest.mark.parametrize("family", ["llama-2", "smollm-2"])
@pytest.mark.parametrize("name", TASKS)
def test_a_task_scores_what_the_harness_scores(tmp_path, name, family):
    lm = loaded(family, tmp_path)
    benchmark = build(task(name, tmp_path))
    agrees(lm, benchmark, name, harness_says(lm, name, tmp_path))


@pytest.mark.parametrize("family", ["llama-2", "smollm-2"])
@pytest.mark.parametrize("way", ["turns", "text"])
@pytest.mark.parametrize("name", ["gsm8k", "arc"])
def test_a_task_in_the_chat_template_scores_what_the_harness_scores(tmp_path, name, way, family):
    lm = loaded(family, tmp_path)
    lm.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    changes = Changes(prompt_format="chat", shots=2, fewshot_as=way, system_prompt="Be brief.")
    benchmark = build(task(name, tmp_path), changes=changes)
    theirs = harness_says(
        lm,
        name,
        tmp_path,
        num_fewshot=2,
        system_instruction="Be brief.",
        apply_chat_template=True,
        fewshot_as_multiturn=way == "turns",
    )
    agrees(lm, benchmark, name, theirs)
    assert protocol_sha256(benchmark) != protocol_sha256(build(task(name, tmp_path)))


def agrees(lm, benchmark, name, theirs):
    items = benchmark.load(NOWHERE, "all")
    result = evaluate(lm, benchmark, items)
    assert result.n == len(DOCUMENTS[name])
    expected = theirs["results"][f"ours_{name}"]
    several = len({key.partition(",")[2] for key in expected if "," in key}) > 1
    for metric, value in expected.items():
        if isinstance(value, float) and "stderr" not in metric:
            mine, _, kind = metric.partition(",")
            found = result.metrics[f"{mine}/{kind}" if several else mine]
            # a perplexity is the exponential of log-likelihoods that agree within 1e-4
            assert found == pytest.approx(value, rel=1e-4, abs=1e-4), metric
    samples = {each["doc_id"]: each for each in theirs["samples"][f"ours_{name}"]}
    for record in result.records:
        answers = [each[0] for each in samples[int(record.id.rpartition("/")[2])]["resps"]]
        if isinstance(answers[0], str):
            assert record.output == answers[0]
            assert record.tokens > 0
        else:
            nats = [each if isinstance(each, float) else each[0] for each in answers]
            assert any(
                each == pytest.approx(-record.reference_nats, rel=1e-6, abs=1e-4) for each in nats
            )


def test_a_leading_space_counts_as_for_the_harness(tmp_path):
    """SentencePiece: generated ids by themselves have none, and exact match tells."""
    lm = loaded("llama-2", tmp_path)
    benchmark = build(task("bbh", tmp_path))
    result = evaluate(lm, benchmark, benchmark.load(NOWHERE, "all"))
    outputs = [record.output for record in result.records]
    assert not any(text.startswith(" ") for text in outputs)
    prompts = [item.prompt for item in benchmark.load(NOWHERE, "all")]
    plain = lm.generate(prompts, max_new_tokens=24, stops=["Q:", "##", "\n\n"])
    assert [each.text.removeprefix(" ") for each in plain] == outputs


@pytest.mark.parametrize("name", ["arc", "cola", "gsm8k"])
def test_ranks_and_chunks_change_nothing(tmp_path, name):
    lm = loaded("smollm-2", tmp_path)
    benchmark = build(task(name, tmp_path))
    items = benchmark.load(NOWHERE, "all")
    whole = evaluate(lm, benchmark, items)
    again = build(f"lm_eval:{tmp_path / f'ours_{name}.yaml'}")
    same = again.load(NOWHERE, "all")
    assert same == items  # demonstrations are drawn document after document
    parts = [record for rank in (0, 1) for record in again.score(lm, same[rank::2])]
    by_id = {record.id: record for record in parts}
    for record in whole.records:
        other = by_id[record.id]
        assert other.reference_nats == pytest.approx(record.reference_nats, abs=1e-4)
        assert (other.output, other.score, other.parts) == (
            record.output,
            record.score,
            record.parts,
        )


def test_validation_and_test_documents_are_apart(tmp_path):
    rows = [{**DOCUMENTS["arc"][n % 7], "question": f"Which is {n}?"} for n in range(60)]
    DOCUMENTS["many"], TASKS["many"] = rows, TASKS["arc"]
    try:
        benchmark = build(task("many", tmp_path, num_fewshot=3))
        parts = {split: benchmark.load(NOWHERE, split) for split in ("validation", "test", "all")}
    finally:
        del DOCUMENTS["many"], TASKS["many"]
    chosen, kept = ({item.id for item in parts[split]} for split in ("validation", "test"))
    assert chosen and kept and not chosen & kept
    assert chosen | kept == {item.id for item in parts["all"]}
    asked = {item.id: f"Question: Which is {item.id.rpartition('/')[2]}?" for item in parts["all"]}
    for item in parts["validation"]:  # nor are they demonstrated by test documents
        assert not any(f"{asked[name]}\n" in item.prompt for name in kept)
    assert "20%" in str(benchmark.protocol()["validation"])


def test_the_task_s_own_validation_split_comes_first(tmp_path):
    data = tmp_path / "held.jsonl"
    held = {**DOCUMENTS["arc"][0], "question": "Held?"}
    data.write_text(json.dumps(held) + "\n")
    files = {"test": str(tmp_path / "arc.jsonl"), "validation": str(data)}
    name = task(
        "arc",
        tmp_path,
        num_fewshot=0,
        validation_split="validation",
        dataset_kwargs={"data_files": files},
    )
    benchmark = build(name)
    (item,) = benchmark.load(NOWHERE, "validation")
    assert (item.id, "Held?" in item.prompt) == ("ours_arc/validation/0", True)
    assert len(benchmark.load(NOWHERE, "test")) == len(DOCUMENTS["arc"])
    assert benchmark.protocol()["validation"] == {"ours_arc": "validation"}


OWN = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "1"
generation_kwargs: {until: [], max_gen_toks: 4}
process_results: !function lacks.process_results
metric_list: [{metric: exact_match}]
"""


def own_task(folder: Path, code: str) -> str:
    (folder / "lacks.py").write_text(code)
    write_task("gsm8k", folder)
    path = folder / "own.yaml"
    path.write_text(OWN.replace("DATA", str(folder / "gsm8k.jsonl")))
    return f"lm_eval:{path}"


TIMED = """import signal
def process_results(doc, results):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(5)
    signal.alarm(0)
    return {"exact_match": float("pens" in doc["question"])}
"""


def test_it_works_in_a_thread_and_disturbs_nothing(tmp_path, monkeypatch):
    """Some comparisons, such as Minerva's, set a timer, which Python refuses a thread."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    name = own_task(tmp_path, TIMED)
    lm = loaded("smollm-2", tmp_path)
    lm.model.train()
    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.random.get_rng_state()
    found = []

    def work() -> None:
        benchmark = build(name)
        found.append(evaluate(lm, benchmark, benchmark.load(NOWHERE, "all")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (found[0].score, found[0].n) == (1.0, 6)
    assert lm.model.training
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_bits_per_byte_of_a_task_generates_nothing(tmp_path, monkeypatch):
    lm = loaded("smollm-2", tmp_path)
    name = task("gsm8k", tmp_path)
    whole, priced = build(name), build(name, metric="bits_per_byte")
    result = evaluate(lm, whole, whole.load(NOWHERE, "all"))
    monkeypatch.setattr(LanguageModel, "generate_ids", None)
    alone = evaluate(lm, priced, priced.load(NOWHERE, "all"))
    assert -alone.score == pytest.approx(result.metrics["bits_per_byte"], rel=1e-5)
    assert protocol_sha256(whole) != protocol_sha256(priced)


def test_changes_reach_the_task_and_its_fingerprint(tmp_path):
    name = task("gsm8k", tmp_path)
    plain = build(name)
    changes = Changes(shots=1, max_new_tokens=3, system_prompt="Be brief.")
    changed = build(name, changes=changes)
    first = changed.load(NOWHERE, "all")[0]
    assert first.prompt.startswith("Be brief.") and first.prompt.count("Q:") == 2
    assert plain.load(NOWHERE, "all")[0].prompt.count("Q:") == 9
    result = evaluate(loaded("smollm-2", tmp_path), changed, [first])
    assert result.records[0].tokens == 3
    assert protocol_sha256(plain) != protocol_sha256(changed)
    warm = build(name, changes=Changes(temperature=0.7))
    lm = loaded("smollm-2", tmp_path)
    items = warm.load(NOWHERE, "all")
    draws = [record.output for record in warm.score(lm, items)]
    assert draws == [
        record.output for record in warm.score(lm, items[:2]) + warm.score(lm, items[2:])
    ]
    assert draws != [record.output for record in plain.score(lm, plain.load(NOWHERE, "all"))]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import langdetective\n", "needs the package 'langdetective'.*pip install langdetective"),
        (
            "import nltk\ndef process_results(doc, results):\n"
            "    return nltk.data.find('tokenizers/punkt_tab_of_nowhere')\n",
            "needs NLTK's 'punkt_tab_of_nowhere'.*nltk.downloader",
        ),
        (
            "def process_results(doc, results):\n    return doc['nothing']\n",
            "cannot be used: KeyError: 'nothing'",
        ),
    ],
)
def test_what_a_task_lacks_is_a_sentence(tmp_path, code, said):
    name = own_task(tmp_path, code)
    with pytest.raises(ValueError, match=rf"^({name}|lm_eval:own) {said}"):
        build(name)


def test_a_wrong_name_metric_or_option_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"no such task\. Did you mean 'arc_easy'"):
        build("lm_eval:arc_eazy")
    with pytest.raises(ValueError, match="expected a task or the YAML file of one, found none"):
        build("lm_eval:missing.yaml")
    name = task("lambada", tmp_path)
    with pytest.raises(ValueError, match="acc, bits_per_byte; found 'perplexity'"):
        build(name, metric="perplexity")
    with pytest.raises(ValueError, match="expected no preset, found 'full'"):
        build(name, preset="full")
    with pytest.raises(ValueError, match="temperature: expected a task that generates text"):
        build(name, changes=Changes(temperature=0.5))
    generates = task("gsm8k", tmp_path)
    for changes in (Changes(top_p=0.9), Changes(top_p=0.9, temperature=0.0)):
        with pytest.raises(ValueError, match=r"top_p 0\.9: expected a temperature above 0"):
            build(generates, changes=changes)
    path = write_task("gsm8k", tmp_path, unsafe_code=True)
    with pytest.raises(ValueError, match="without a sandbox"):
        build(f"lm_eval:{path}")


def test_ifeval_here_is_scored_or_explained():
    """The data of most tasks are on the hub: without it, or without a package, a sentence."""
    with pytest.raises(ValueError, match=r"lm_eval:ifeval (needs|cannot be used)"):
        build("lm_eval:ifeval")


def test_a_missing_harness_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingHarness, match=r"gmt-sweep\[eval\]"):
        build("lm_eval:arc_easy")
