"""Scoring a segmentation network."""

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from segunet.data.dataset import Batch
from segunet.inference.logits import check_tta, naming, predict
from segunet.metrics.counter import Counter
from segunet.metrics.scores import Scores


class ScoringTask(LightningModule):
    """Score a network on a split: ``trainer.test(task, loader)``, then read ``scores``.

    Args:
        net: images (N, 3, H, W) uint8 -> logits (N, K, H, W).
        num_classes: K.
        ignore_index: mask value that is not scored.
        tta: test-time augmentation, a key of ``inference.TTA``.
        boundary_iou: whether to compute it too; it takes time.

    Raises:
        UserError: an unknown ``tta``.
    """

    def __init__(
        self, net: nn.Module, num_classes: int, ignore_index: int, tta: str = "none", boundary_iou: bool = False
    ) -> None:
        super().__init__()
        check_tta(tta)
        self.net = net
        self.tta = tta
        self.counter = Counter(num_classes, ignore_index, boundary_iou)
        self.scores: Scores | None = None

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict and count; returns the predictions int64 (N, H', W') for callbacks."""
        height, width = batch.masks.shape[-2:]
        with naming(batch.names):
            predictions = predict(self.net, batch.images, (height, width), self.tta)
        self.counter.update(predictions, batch.masks, batch.names)
        return predictions

    def on_test_epoch_end(self) -> None:
        """Make the split's scores."""
        self.scores = self.counter.scores()
