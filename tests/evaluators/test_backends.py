"""The harness and vLLM behind the interface: equal numbers, or a word that they are missing."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import threading
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from evaluators.language_model import LanguageModel
from evaluators.lm_eval_backend import MissingHarness, harness_model, run_tasks
from evaluators.sampling import Sampling
from evaluators.vllm_backend import MissingVllm, VllmModel
from tests.evaluators.conftest import build_model
from tests.evaluators.tokenizer_families import FAMILIES

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed"
)
# What the harness's dependencies warn about is theirs.
quiet = pytest.mark.filterwarnings("ignore")

LETTERS = ["one", "two", "three", "four"]
DOCUMENTS = {
    "mmlu": [
        {"question": f" What is {n} plus one? ", "choices": LETTERS[n % 2 :] + LETTERS[: n % 2],
         "answer": n % 4}
        for n in range(7)
    ],
    "truthfulqa": [
        {"question": f"Is {n} a number?",
         "mc2_targets": {"choices": ["Yes", "Yes, it is.", f"No, {n} is not", "I have no comment"],
                         "labels": [1, 1, 0, 0]}}
        for n in range(5)
    ],
    "gsm8k": [
        {"question": f"Ann has {n} pens and buys {n + 2}. Sum?", "answer": f"#### {2 * n + 2}"}
        for n in range(6)
    ],
    "bbh": [{"input": f"not ( True ) and {n % 2 == 0} is", "target": "False"} for n in range(6)],
}  # fmt: skip
TASKS = {
    "mmlu": ("mmlu/default/mmlu_anatomy.yaml", {"fewshot_split": "test", "num_fewshot": 2}),
    "truthfulqa": ("truthfulqa/truthfulqa_mc2.yaml", {"validation_split": "test"}),
    "gsm8k": ("gsm8k/gsm8k-cot.yaml", {}),
    "bbh": ("bbh/cot_fewshot/boolean_expressions.yaml", {}),
}


@pytest.fixture
def long_model(tokenizer) -> LlamaForCausalLM:
    return build_model(tokenizer, context=8192).eval()


def task_config(name: str, folder: Path) -> Path:
    """The harness's own task on documents of ours: only the place of the data is another."""
    import lm_eval.tasks

    file, changes = TASKS[name]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS[name]))
    lines = [
        f"include: {Path(lm_eval.tasks.__file__).parent / file}",
        f"task: ours_{name}",
        "tag: null",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {json.dumps({'data_files': {'test': str(data)}})}",
        "test_split: test" if name != "truthfulqa" else "test_split: null",
        *(f"{key}: {json.dumps(value)}" for key, value in changes.items()),
    ]
    if name in ("gsm8k", "bbh"):
        lines.append('generation_kwargs: {"until": ["Q:", "##"], "max_gen_toks": 24}')
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def answers(results: dict, name: str) -> list:
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


@needs_harness
@quiet
@pytest.mark.parametrize("name", TASKS)
def test_parity_with_the_harness_s_own_model(tmp_path, monkeypatch, long_model, tokenizer, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task_config(name, tmp_path)
    lm = LanguageModel(long_model, tokenizer)
    ours = run_tasks(lm, [f"ours_{name}"], task_folder=tmp_path)
    theirs = simple_evaluate(
        model=HFLM(pretrained=long_model, tokenizer=tokenizer, batch_size=3),
        tasks=[f"ours_{name}"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    mine, other = answers(ours, f"ours_{name}"), answers(theirs, f"ours_{name}")
    assert len(mine) in (len(DOCUMENTS[name]), 2 * len(DOCUMENTS[name]))  # per filter
    if name in ("gsm8k", "bbh"):
        assert mine == other
        assert all(len(answer) > 3 for each in mine for answer in each[0])
    else:
        for found, expected in zip(flat(mine), flat(other), strict=True):
            assert float(found[0]) == pytest.approx(float(expected[0]), abs=1e-4)
            assert str(found[1]) == str(expected[1])
    key = f"ours_{name}"
    numbers = {
        name: value for name, value in theirs["results"][key].items() if "alias" not in name
    }
    for metric, value in numbers.items():
        if isinstance(value, float):
            assert ours["results"][key][metric] == pytest.approx(value, abs=1e-4)


@needs_harness
@quiet
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_text_begins_as_for_the_harness_s_own_model(tmp_path, model, family):
    from lm_eval.models.huggingface import HFLM

    tokenizer = family.load(tmp_path)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer)
    ours = harness_model(LanguageModel(model, tokenizer))
    assert ours.prefix_token_id == theirs.prefix_token_id
    for text in ("Is 1+2 3?", "x", f"{tokenizer.decode(theirs.prefix_token_id)}user: hi"):
        assert ours.tok_encode(text) == theirs.tok_encode(text)
        assert ours._encode_pair(text, " yes") == theirs._encode_pair(text, " yes")
    plain = harness_model(LanguageModel(model, tokenizer, add_bos=False))
    assert plain.tok_encode("x") == theirs.tok_encode("x", add_special_tokens=False)


def flat(answers: list) -> list:
    """(log-likelihood, is greedy) of each choice of each document."""
    return [each[0] for document in answers for each in document]


@needs_harness
@quiet
def test_the_harness_works_in_a_thread_of_a_worker_and_disturbs_nothing(
    tmp_path, monkeypatch, long_model, tokenizer
):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    task_config("mmlu", tmp_path)
    long_model.train()
    random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), torch.random.get_rng_state()
    found: list[dict] = []
    lm = LanguageModel(long_model, tokenizer)
    thread = threading.Thread(
        target=lambda: found.append(run_tasks(lm, ["ours_mmlu"], task_folder=tmp_path, limit=3))
    )
    thread.start()
    thread.join()
    assert len(found[0]["samples"]["ours_mmlu"]) == 3
    assert long_model.training
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_a_missing_harness_is_named(monkeypatch, model, tokenizer):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingHarness, match=r"gmt-sweep\[eval\]"):
        harness_model(LanguageModel(model, tokenizer))
    with pytest.raises(MissingVllm, match=r"gmt-sweep\[vllm\]"):
        VllmModel(Path("anywhere"))


@dataclass
class FakeParameters:
    max_tokens: int
    temperature: float
    top_p: float = 1.0
    stop: list[str] = field(default_factory=list)
    seed: int | None = None
    prompt_logprobs: int | None = None


class FakeEngine:
    """vLLM's offline engine as its documentation has it, computed by a model in memory."""

    loaded: LanguageModel

    def __init__(self, model: str, seed: int, enable_prefix_caching: bool, dtype: str) -> None:
        assert (model, seed, enable_prefix_caching, dtype) == ("folder", 7, True, "float32")

    def get_tokenizer(self):
        return self.loaded.tokenizer

    def generate(self, prompts, parameters, use_tqdm):
        return [
            self._one(p["prompt_token_ids"], q) for p, q in zip(prompts, parameters, strict=True)
        ]

    def _one(self, ids, wanted):
        made = self.loaded.generate_ids([ids], max_new_tokens=wanted.max_tokens, stops=wanted.stop)
        reason = "length" if made[0].truncated else "stop"
        best = types.SimpleNamespace(
            text=made[0].text, token_ids=range(made[0].tokens), finish_reason=reason
        )
        logprobs = None
        if wanted.prompt_logprobs:
            logprobs = [None]
            with torch.no_grad():
                rows = self.loaded.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for row, token in zip(rows, ids[1:], strict=False):
                rank = int((row > row[token]).sum()) + 1
                entry = types.SimpleNamespace(logprob=float(row[token]), rank=rank)
                logprobs.append({token: entry})
        return types.SimpleNamespace(outputs=[best], prompt_logprobs=logprobs)


def test_vllm_answers_like_the_engine(monkeypatch, model, tokenizer):
    """Against a stand-in for vLLM, which no test machine has."""
    lm = LanguageModel(model.eval(), tokenizer)
    fake = types.ModuleType("vllm")
    fake.LLM, fake.SamplingParams = FakeEngine, FakeParameters
    FakeEngine.loaded = lm
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: fake)
    served = VllmModel(Path("folder"), seed=7, dtype="float32")
    prompts = ["a", "Question: 1 + 2?\nAnswer:"]
    assert served.generate(prompts, max_new_tokens=9, stops=["x"]) == lm.generate(
        prompts, max_new_tokens=9, stops=["x"]
    )
    pairs = [("ab", " cd"), ("x", ""), (prompts[1], " 3")]
    for mine, theirs in zip(served.loglikelihood(pairs), lm.loglikelihood(pairs), strict=True):
        assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
        assert (mine.tokens, mine.is_greedy) == (theirs.tokens, theirs.is_greedy)
    plain = VllmModel(Path("folder"), seed=7, dtype="float32", add_bos=False)
    without = LanguageModel(model, tokenizer, add_bos=False)
    assert (served.add_bos, plain.add_bos) == (None, False)
    mine, theirs = plain.loglikelihood(pairs[:1])[0], without.loglikelihood(pairs[:1])[0]
    assert mine.nats == pytest.approx(theirs.nats, abs=1e-4)
    assert mine.nats != pytest.approx(served.loglikelihood(pairs[:1])[0].nats, abs=1e-4)
    with pytest.raises(ValueError, match="one seed for each of 2 prompts"):
        served.generate(prompts, max_new_tokens=1, sampling=Sampling(1.0), seeds=[1])
