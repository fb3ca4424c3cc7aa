"""Training a segmentation network."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection

from segunet.data.dataset import Batch
from segunet.inference.logits import logits_at, naming
from segunet.inference.tiling import Inference
from segunet.losses.segmentation import LossParts, SegmentationLoss
from segunet.metrics.scores import Scores, absent_note
from segunet.training.lr_schedule import Schedule
from segunet.training.optimizer import OptimizerFactory
from segunet.training.scheduled import ScheduledTask
from segunet.training.scoring import ScoringTask

logger = logging.getLogger(__name__)


class SegmentationTask(ScoringTask, ScheduledTask):
    """Train a network; takes ready-made objects.

    Args:
        net: images (N, C, H, W) uint8 -> logits (N, K, H, W); its encoder is ``net.encoder``.
        loss: loss of the logits and the masks.
        optimizer: creates the optimizer from the net.
        lr_schedule: learning rate schedule, applied before each optimizer step.
        class_names: K names, for the log.
        card: describes how to rebuild the net, in plain containers; saved with each checkpoint.
        inference: how validation images are predicted; in tiles there is no loss.
        objects: whether to score the objects of the batches too.
        max_steps: optimizer steps after which the run ends, unless its epochs end first; None for no limit.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: SegmentationLoss,
        optimizer: OptimizerFactory,
        lr_schedule: Schedule,
        class_names: Sequence[str],
        card: dict[str, Any],
        inference: Inference,
        objects: bool = False,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(net, len(class_names), loss.ignore_index, inference, objects=objects)
        self.loss = loss
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.class_names = class_names
        self.card = card
        self.max_steps = max_steps
        self.absent_named = False
        self.val_losses = MetricCollection({name: MeanMetric() for name in LossParts._fields})

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            UserError: the loss is not finite; names the step and the images.
        """
        parts: LossParts = self.loss(self.net(batch.images), batch.masks, batch.border_weights)
        self.check_finite(parts.total, batch.names)
        self.log_dict({f"train/{name}": value for name, value in self._named(parts).items()})
        self.log_dict(self.learning_rates())
        return parts.total

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch; returns the predictions int64 (N, H', W') for callbacks.

        Raises:
            UserError: out of memory, or logits that are not finite.
        """
        if not batch.names:
            return self.count_nothing(batch)
        with self.enough_memory_for(batch):
            return self.count(batch) if self.inference.tile else self._count_with_loss(batch)

    def count_nothing(self, batch: Batch) -> Tensor:
        """Count an empty batch, which has no loss."""
        for loss in self.val_losses.values():
            loss.update(0.0, weight=0.0)
        return super().count_nothing(batch)

    def _count_with_loss(self, batch: Batch) -> Tensor:
        height, width = batch.masks.shape[-2:]
        with naming(batch.names):
            logits = logits_at(self.net, batch.images, (height, width))
        for name, value in self.loss(logits, batch.masks, batch.border_weights)._asdict().items():
            self.val_losses[name].update(value, weight=len(batch.names))
        predictions = logits.argmax(dim=1)
        self.counter.update(predictions, batch.masks, batch.names, batch.objects)
        return predictions

    def on_validation_epoch_end(self) -> None:
        """Log the split's scores."""
        self.scores = self.counter.scores()
        self._name_absent_classes(self.scores)
        values: dict[str, Any] = {**self._val_loss(), **self.scores.headline}
        for name, iou in zip(self.class_names, self.scores.iou, strict=True):
            if not math.isnan(iou):
                values[f"iou/{name}"] = iou
        self.log_dict({f"val/{name}": float(value) for name, value in values.items()}, sync_dist=True)

    def _val_loss(self) -> dict[str, Tensor]:
        """Return the validation loss and its parts; empty in tiles, whose blended predictions have no logits."""
        if self.inference.tile:
            return {}
        parts = LossParts(**self.val_losses.compute())
        self.val_losses.reset()
        return self._named(parts)

    def _name_absent_classes(self, scores: Scores) -> None:
        """Log once which classes the validation list has no pixels of."""
        note = absent_note(scores, self.class_names)
        if note and not self.absent_named and not self.trainer.sanity_checking and self.trainer.is_global_zero:
            logger.warning("classes %s", note)
            self.absent_named = True

    def new_optimizer(self) -> Optimizer:
        """Return the optimizer of the network."""
        return self.optimizer(self.net)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card and the scores of the last validation."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["segunet"] = dict(self.card)
        if self.scores is not None:
            checkpoint["segunet"]["scores"] = {
                "confusion": self.scores.confusion.tolist(),
                "images": self.scores.images,
                "image_miou": dict(self.scores.image_miou),
                "objects": self._objects(),
            }

    def _objects(self) -> dict[str, Any] | None:
        """Return the scores of objects in plain containers."""
        objects = self.scores.objects if self.scores else None
        return {**objects.counts._asdict(), "rand_error": objects.rand_error} if objects else None

    def _named(self, parts: LossParts) -> dict[str, Tensor]:
        return {
            "loss": parts.total,
            f"loss_{self.loss.pixelwise.label}": parts.pixelwise,
            "loss_dice": parts.dice,
        }
