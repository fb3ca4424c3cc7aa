"""Gradient clipping, with fused optimizers in mixed precision too; steps that do not wait for the device."""

import math
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from segunet import train
from segunet.data.dataset import Batch
from segunet.training.scheduled import ScheduledTask
from segunet.training.segmentation import SegmentationTask
from tests.commands import TINY, TINY_DENOISER, Command


class Slope(ScheduledTask):
    """Its gradient is 1,000 at each of nine weights; one step of SGD at a rate of 1 subtracts what is left of it."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.net, self.fused = nn.Linear(9, 1, bias=False), fused
        self.max_steps = None
        self.lr_schedule = lambda *given: given[-1]
        nn.init.zeros_(self.net.weight)

    def new_optimizer(self) -> Optimizer:
        return SGD([{"params": self.net.parameters(), "name": "decoder"}], lr=1.0, fused=self.fused)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return 1000 * self.net(batch).sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "plugin",
    [
        Precision(),
        MixedPrecision("bf16-mixed", "cpu"),
        MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0)),
    ],
    ids=["float32", "bf16", "float16 with a scaler"],
)
@pytest.mark.parametrize(("clip", "algorithm", "wanted"), [(6.0, "norm", 6 / math.sqrt(9)), (3.0, "value", 3.0)])
def test_gradients_are_clipped(
    fused: bool, plugin: Precision, clip: float, algorithm: str, wanted: float, tmp_path: Path
) -> None:
    task = Slope(fused)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        plugins=[plugin],
        gradient_clip_val=clip,
        gradient_clip_algorithm=algorithm,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, DataLoader([torch.ones(9)], batch_size=1))  # type: ignore[arg-type]
    torch.testing.assert_close(task.net.weight.detach(), torch.full((1, 9), -wanted))


def test_without_a_limit_nothing_is_clipped() -> None:
    task: LightningModule = Slope(fused=True)
    task._trainer = SimpleNamespace()  # type: ignore[assignment]  # is not asked for anything
    task.configure_gradient_clipping(SGD(task.parameters(), lr=1.0), None, None)


def test_a_recipe_with_a_fused_optimizer_and_a_limit_trains_in_bfloat16(
    run: Command, voc_folder: Path, tmp_path: Path
) -> None:
    options = ["optimizer=adamw_scratch", "trainer.gradient_clip_val=1", "trainer.precision=bf16-mixed"]
    data = [f"data.root={voc_folder}", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    result = run(train, *TINY, *options, *data)
    assert result.status == 0, result.error


# Operations that make the host wait for a GPU, as their result's value or size is needed there.
_WAITING = {
    torch.ops.aten._local_scalar_dense,  # item(), bool(), float(), int(), tolist() of one value
    torch.ops.aten.nonzero,
    torch.ops.aten.masked_select,
    torch.ops.aten.bincount,
    torch.ops.aten._unique2,
    torch.ops.aten.equal,
    torch.ops.aten.is_nonzero,
}


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists the operations that read from the device, but for EMA's count, which stays on the CPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self.steps = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func.overloadpacket in _WAITING or _indexes_by_mask(func, args)) and not _counts_averages():
            self.found.append(f"{func} in {traceback.extract_stack()[-3]}")
        return func(*args, **(kwargs or {}))


def _indexes_by_mask(func: Any, args: Any) -> bool:
    if func.overloadpacket not in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        return False
    return any(each is not None and each.dtype == torch.bool for each in args[1])


def _counts_averages() -> bool:
    return "update_parameters" in {frame.name for frame in traceback.extract_stack()[-8:]}


@pytest.mark.parametrize(
    "own",
    [
        [*TINY, "loss=ce_dice", "callbacks.ema_decay=0.9"],
        [*TINY, "loss=focal_dice", "optimizer.encoder_lr=1e-4", "trainer.gradient_clip_val=1"],
        [*TINY, "data.border_weights.w0=10", "trainer.precision=bf16-mixed"],
        [*TINY_DENOISER, "trainer.gradient_clip_val=1", "callbacks.ema_decay=0.9"],
    ],
    ids=["ce_dice, averaged", "focal_dice, clipped", "border weights, bf16", "denoiser"],
)
def test_a_training_step_reads_nothing_from_the_device(
    run: Command, voc_folder: Path, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read back from the device; counted on the CPU. Copies to a device do not show here."""
    waits, advance = Waits(), _TrainingEpochLoop.advance

    def watched(*args: Any) -> None:
        waits.steps += 1
        with nullcontext() if waits.steps % 3 == 0 else waits:  # every third step is logged
            advance(*args)

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    options = ["optimizer.optimizer.fused=true", "trainer.log_every_n_steps=3", "trainer.max_epochs=2"]
    result = run(train, *own, *options, f"data.root={voc_folder}", f"run_dir={tmp_path}/run")
    assert result.status == 0, result.error
    assert waits.steps == 6
    assert waits.found == []


def test_a_loss_that_is_not_finite_is_found_before_a_checkpoint(
    run: Command, voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def broken(self: SegmentationTask, batch: Batch, _: int) -> Tensor:
        called.append(batch.names)
        loss = self.net(batch.images).mean() * (float("nan") if len(called) == 3 else 1.0)
        self.check_finite(loss, batch.names)
        self.log("train/loss", loss)
        self.log_dict(self.learning_rates())
        return loss  # type: ignore[no-any-return]

    monkeypatch.setattr(SegmentationTask, "training_step", broken)
    options = ["trainer.log_every_n_steps=2", "trainer.num_sanity_val_steps=0", f"run_dir={tmp_path}/run"]
    result = run(train, *TINY, *options, f"data.root={voc_folder}")
    assert result.status == 1
    assert f"The loss became nan at step 2 (epoch 0) on the images {', '.join(called[2])}." in result.error
    assert len(called) == 3
    assert not list(tmp_path.rglob("*.ckpt"))
