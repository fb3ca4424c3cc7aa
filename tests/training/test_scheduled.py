"""Gradient clipping, with fused optimizers in mixed precision too."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from segunet import train
from segunet.training.scheduled import ScheduledTask
from tests.commands import TINY, Command


class Slope(ScheduledTask):
    """Its gradient is 1,000 at each of nine weights; one step of SGD at a rate of 1 subtracts what is left of it."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.net, self.fused = nn.Linear(9, 1, bias=False), fused
        self.max_steps = None
        self.lr_schedule = lambda *given: given[-1]  # type: ignore[assignment]
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
