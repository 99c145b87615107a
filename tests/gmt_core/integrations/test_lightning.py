"""The callback in Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gmt_core import GradientMask, GradientMasker, Method, RandomMask
from gmt_core.integrations.lightning import GradientMaskCallback


class Regression(LightningModule):
    """Two layers; remembers each gradient as it stood right after the step."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 1))
        self.optimizer_count = optimizers
        self.automatic_optimization = optimizers == 1
        self.clipped: list[list[Tensor]] = []
        self.stepped: list[list[Tensor]] = []

    def training_step(self, batch: list[Tensor], place: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.network(x), y)

    def configure_gradient_clipping(self, *arguments, **options) -> None:
        super().configure_gradient_clipping(*arguments, **options)
        self.clipped.append([p.grad.clone() for p in self.parameters()])

    def optimizer_step(self, *arguments, **options) -> None:
        super().optimizer_step(*arguments, **options)
        self.stepped.append([p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.parameters(), lr=1e-2) for _ in range(self.optimizer_count)]


def data() -> DataLoader:
    """Four updates in each epoch, since Lightning resumes exactly at the end of one only."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(32, 6, generator=generator)
    return DataLoader(TensorDataset(x, x.prod(dim=1, keepdim=True)), batch_size=4)


def trainer(folder: Path, method: Method | None, steps: int = 6, **options) -> Trainer:
    callbacks = options.pop("callbacks", [])
    if method is not None:
        masker = GradientMasker(method, statistics_every=1)
        callbacks = [*callbacks, GradientMaskCallback(masker)]
    return Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        callbacks=callbacks,
        **{
            "logger": False,
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "gradient_clip_val": 0.1,
            "accumulate_grad_batches": 2,
            **options,
        },
    )


def fit(folder: Path, method: Method | None, **options) -> Regression:
    module = Regression()
    trainer(folder, method, **options).fit(module, data())
    return module


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_mask_ratio_zero_is_bit_identical_to_no_callback(tmp_path: Path) -> None:
    plain = list(fit(tmp_path, None, steps=20).parameters())
    for method in (GradientMask(0.0), RandomMask(0.0, seed=1)):
        assert same(list(fit(tmp_path, method, steps=20).parameters()), plain)


def test_masks_once_per_update_what_was_accumulated_and_clipped(tmp_path: Path) -> None:
    module = fit(tmp_path, GradientMask(0.7))
    assert len(module.clipped) == 6  # of 12 mini-batches
    for clipped, stepped in zip(module.clipped, module.stepped, strict=True):
        assert torch.stack([g.norm() for g in clipped]).norm() <= 0.1 + 1e-6
        GradientMask(0.7).mask_(clipped, 0)
        assert same(clipped, stepped)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists:UserWarning")
@pytest.mark.parametrize(
    "method",
    [RandomMask(0.7, seed=2), GradientMask(0.7), GradientMask(0.7, hold="training")],
)
def test_a_resumed_run_ends_as_one_never_stopped(tmp_path: Path, method: Method) -> None:
    def saves() -> list[ModelCheckpoint]:
        return [ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)]

    whole = fit(tmp_path, method, steps=8, callbacks=saves())
    resumed = Regression()
    trainer(tmp_path, method, steps=8, callbacks=saves()).fit(
        resumed, data(), ckpt_path=str(tmp_path / "step=4.ckpt"), weights_only=True
    )
    assert same(list(whole.parameters()), list(resumed.parameters()))


def test_a_checkpoint_without_masker_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, None)
    run.fit(Regression(), data())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match="checkpoint at step 6 was written without a masker"):
        trainer(tmp_path, RandomMask(0.5), steps=8).fit(
            Regression(), data(), ckpt_path=str(tmp_path / "plain.ckpt"), weights_only=True
        )


def test_a_second_trainer_starts_the_masks_anew(tmp_path: Path) -> None:
    callback = GradientMaskCallback(GradientMasker(RandomMask(0.5)))
    for _ in range(2):
        trainer(tmp_path, None, steps=2, callbacks=[callback]).fit(Regression(), data())
    assert callback.masker.state_dict()["update"] == 2


class Backbone(LightningModule):
    """A frozen backbone under a head, and what the head's gradients kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(6, 16), nn.Linear(16, 1)
        self.kept: list[list[int]] = []

    def training_step(self, batch: list[Tensor], place: int) -> Tensor:
        return nn.functional.mse_loss(self.head(self.backbone(batch[0])), batch[1])

    def optimizer_step(self, *arguments, **options) -> None:
        super().optimizer_step(*arguments, **options)
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        self.kept.append([int(gradient.count_nonzero()) for gradient in gradients])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.parametrize("method", [RandomMask(0.5), GradientMask(0.5, hold="training")])
def test_parameters_that_join_the_optimizer_are_masked_too(tmp_path: Path, method) -> None:
    module = Backbone()
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1)
    run = trainer(tmp_path, method, callbacks=[unfreezing], accumulate_grad_batches=4)
    run.fit(module, data())
    assert module.kept == [[8, 1], [8, 1], *[[48, 8, 8, 1]] * 4]
    assert run.callbacks[-1].masker.state_dict()["update"] == 6


def test_statistics_reach_the_logger(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="logs", version=0)
    fit(tmp_path, GradientMask(0.7), logger=logger, log_every_n_steps=2)
    header, *rows = (tmp_path / "logs" / "version_0" / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("gmt/kept_fraction")
    kept = [float(row.split(",")[place]) for row in rows]
    assert len(kept) == 3
    assert kept == pytest.approx([0.3] * 3, abs=0.05)


def test_several_optimizers_and_flattened_gradients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one optimizer, found 2"):
        trainer(
            tmp_path, GradientMask(0.5), gradient_clip_val=None, accumulate_grad_batches=1
        ).fit(Regression(optimizers=2), data())
    run = trainer(tmp_path, GradientMask(0.5))
    run.strategy.__class__ = FSDPStrategy
    with pytest.raises(ValueError, match=r"FSDP1 flattens.*use strategy='ddp', or ModelParallel"):
        run.callbacks[-1].on_train_start(run, Regression())
