"""The callback in transformers' Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from gmt_core import GradientMask, GradientMasker, Method, RandomMask
from gmt_core.integrations.huggingface import GradientMaskCallback
from tests.gmt_core.integrations.tiny import model, token_rows


def trainer(folder: Path, method: Method | None, **options) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        **{
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 3,
            "learning_rate": 1e-2,
            "logging_steps": 2,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "seed": 5,
            **options,
        },
    )
    made = Trainer(model(), arguments, train_dataset=token_rows(), eval_dataset=token_rows(4))
    if method is not None:
        GradientMaskCallback(GradientMasker(method, statistics_every=1)).add_to(made)
    return made


def weights(trained: Trainer) -> list[Tensor]:
    return [p.detach() for p in trained.model.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_mask_ratio_zero_is_bit_identical_to_no_callback(tmp_path: Path, optim: str) -> None:
    plain, masked = (
        trainer(tmp_path, method, max_steps=20, optim=optim, gradient_accumulation_steps=1)
        for method in (None, GradientMask(0.0))
    )
    plain.train()
    masked.train()
    assert same(weights(plain), weights(masked))


class Recorder(TrainerCallback):
    """Gradients before and after the optimizer step, at every update."""

    def __init__(self) -> None:
        self.before: list[list[Tensor]] = []
        self.after: list[list[Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        self.before.append([p.grad.clone() for p in model.parameters()])

    def on_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        self.after.append([p.grad.clone() for p in model.parameters()])


def test_masks_once_per_update_what_was_accumulated_and_clipped(tmp_path: Path) -> None:
    run = trainer(tmp_path, GradientMask(0.7), max_grad_norm=0.1)
    run.add_callback(recorder := Recorder())
    run.train()
    assert len(recorder.before) == 6  # of 18 mini-batches
    assert run.state.stateful_callbacks["gmt_core.masker"]["update"] == 6
    for before, after in zip(recorder.before, recorder.after, strict=True):
        norm = torch.stack([g.norm() for g in before]).norm()
        assert norm == pytest.approx(0.1, rel=1e-3)
        GradientMask(0.7).mask_(before, 0)
        assert same(before, after)


def test_parameters_go_by_their_names_in_the_model(tmp_path: Path) -> None:
    run = trainer(tmp_path, None, max_steps=1)
    GradientMaskCallback(GradientMasker(GradientMask(0.9), exclude=["*norm*"])).add_to(run)
    run.add_callback(recorder := Recorder())
    run.train()
    names = [name for name, _ in run.model.named_parameters()]
    for name, before, after in zip(names, recorder.before[0], recorder.after[0], strict=True):
        assert torch.equal(before, after) == ("norm" in name), name


@pytest.mark.parametrize(
    "method",
    [
        RandomMask(0.7, seed=2),
        GradientMask(0.7, "global"),
        GradientMask({"*mlp*": 0.7, "*": 0.2}, saliency="product", hold="training"),
    ],
)
@pytest.mark.parametrize("restore_callbacks", [False, True])
def test_a_resumed_run_ends_as_one_never_stopped(
    tmp_path: Path, method: Method, restore_callbacks: bool
) -> None:
    options = {
        "save_strategy": "steps",
        "save_steps": 3,
        "restore_callback_states_from_checkpoint": restore_callbacks,
    }
    whole = trainer(tmp_path / "whole", method, **options)
    whole.train()
    resumed = trainer(tmp_path / "resumed", method, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same(weights(whole), weights(resumed))
    saved = json.loads((tmp_path / "resumed" / "checkpoint-6" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["gmt_core.masker"]["update"] == 6


def test_a_checkpoint_without_masker_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, None, save_strategy="steps", save_steps=3).train()
    with pytest.raises(ValueError, match="checkpoint at step 3 was written without a masker"):
        trainer(tmp_path, RandomMask(0.5)).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-3")
        )


def test_a_checkpoint_of_another_mask_ratio_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, GradientMask(0.2), save_strategy="steps", save_steps=3).train()
    with pytest.raises(ValueError, match=r"has mask_ratio 0.4, and .* with mask_ratio 0.2"):
        trainer(tmp_path, GradientMask(0.4)).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-3")
        )


def test_a_loss_may_have_parameters_of_its_own(tmp_path: Path) -> None:
    """As those of sentence-transformers have."""
    temperature = torch.nn.Parameter(torch.ones(()))
    for exclude, others in (((), []), (["temperature"], [("temperature", temperature)])):
        run = trainer(tmp_path, None, max_steps=2)
        run.optimizer = torch.optim.AdamW([*run.model.parameters(), temperature], lr=1e-3)
        masker = GradientMasker(GradientMask(0.5), exclude=exclude)
        GradientMaskCallback(masker, others).add_to(run)
        run.train()
        assert masker.state_dict()["update"] == 2


def test_train_twice_starts_the_masks_anew(tmp_path: Path) -> None:
    run = trainer(tmp_path, RandomMask(0.5), max_steps=2)
    run.train()
    run.train()
    assert run.state.stateful_callbacks["gmt_core.masker"]["update"] == 2


class Tracker(TrainerCallback):
    """As the callbacks that send logs to a tracking server."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs, **kwargs) -> None:
        self.seen.append(dict(logs))


def test_statistics_reach_the_logs_and_trackers_that_came_first(tmp_path: Path) -> None:
    tracker = Tracker()
    run = trainer(tmp_path, None, eval_strategy="steps", eval_steps=3)
    run.add_callback(tracker)
    GradientMaskCallback(GradientMasker(GradientMask(0.7), statistics_every=1)).add_to(run)
    run.train()
    for logs in (tracker.seen, run.state.log_history):
        training = [row for row in logs if "loss" in row]
        assert len(training) == 3
        assert all(row["gmt/kept_fraction"] == pytest.approx(0.3, abs=0.05) for row in training)
        assert all(0 < row["gmt/energy_kept"] < 1 for row in training)
        assert [row["gmt/update"] for row in training] == [2, 4, 6]
        others = [row for row in logs if "loss" not in row]
        assert others and not any("gmt/kept_fraction" in row for row in others)


def test_two_callbacks_on_one_trainer_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, GradientMask(0.5))
    with pytest.raises(ValueError, match="expected no GradientMaskCallback yet, found one"):
        GradientMaskCallback(GradientMasker(GradientMask(0.5))).add_to(run)


def test_layer_wise_optimizers_are_refused(tmp_path: Path) -> None:
    from transformers.trainer_pt_utils import LayerWiseDummyOptimizer

    run = trainer(tmp_path, GradientMask(0.5))
    run.optimizer = LayerWiseDummyOptimizer(optimizer_dict={})
    with pytest.raises(ValueError, match="layer-wise optimizer updates during backward"):
        run.train()


def test_optimizers_that_step_past_the_hook_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LOMO, which Accelerate never steps, since it updated during backward()."""
    run = trainer(tmp_path, GradientMask(0.5))
    monkeypatch.setattr(AcceleratedOptimizer, "step", lambda self: None)
    with pytest.raises(ValueError, match="AdamW updates weights outside of its step"):
        run.train()


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
def test_steps_that_the_scaler_skips_do_not_count(tmp_path: Path, optim: str) -> None:
    run = trainer(tmp_path, RandomMask(0.5), max_steps=4, optim=optim)
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    run.train()  # the first loss overflows, then the scale shrinks
    assert run.state.global_step == 4
    assert 1 <= run.state.stateful_callbacks["gmt_core.masker"]["update"] < 4
