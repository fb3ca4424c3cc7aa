"""Scoring a segmentation network."""

from contextlib import AbstractContextManager

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from segunet.base.errors import counted
from segunet.base.failures import enough_memory
from segunet.data.dataset import Batch
from segunet.inference.logits import naming
from segunet.inference.tiling import Inference
from segunet.metrics.counter import Counter
from segunet.metrics.scores import Scores

_WHOLE = Inference()


class ScoringTask(LightningModule):
    """Score a network on a split: ``trainer.test(task, loader)``, then read ``scores``.

    Args:
        net: images (N, C, H, W) uint8 -> logits (N, K, H, W).
        num_classes: K.
        ignore_index: mask value of pixels that are not scored.
        inference: whole images or tiles, test-time augmentation.
        boundary_iou: whether to compute boundary IoU too, which takes time.
        objects: whether to score the objects of the batches too.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        ignore_index: int,
        inference: Inference = _WHOLE,
        boundary_iou: bool = False,
        objects: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.inference = inference
        self.counter = Counter(num_classes, ignore_index, boundary_iou, objects)
        self.scores: Scores | None = None

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Predict and count; returns the predictions int64 (N, H', W') for callbacks.

        Raises:
            UserError: out of memory, or logits that are not finite.
        """
        if not batch.names:
            return self.count_nothing(batch)
        with self.enough_memory_for(batch):
            return self.count(batch)

    def count(self, batch: Batch) -> Tensor:
        """Predict and count; returns the predictions int64 (N, H', W')."""
        height, width = batch.masks.shape[-2:]
        with naming(batch.names):
            predictions = self.inference.predict(self.net, batch.images, (height, width))
        self.counter.update(predictions, batch.masks, batch.names, batch.objects)
        return predictions

    def count_nothing(self, batch: Batch) -> Tensor:
        """Count an empty batch, of a process for which no image is left, without predicting."""
        nothing = batch.masks.long()
        self.counter.update(nothing, batch.masks, batch.names, batch.objects)
        return nothing

    def enough_memory_for(self, batch: Batch) -> AbstractContextManager[None]:
        """Convert an out-of-memory error while scoring into a UserError that names the image and gives advice."""
        height, width = batch.masks.shape[-2:]
        what = (
            f"when scoring {counted(len(batch.names), 'image')} of {width} x {height} pixels at once ({batch.names[0]})"
        )
        if len(batch.names) > 1:
            return enough_memory(what, "Set data.val_batch_size=1.")
        smaller = "smaller tiles" if self.inference.tile else "tiles (tile=512), or at a smaller inference_size"
        return enough_memory(what, f"Score it in {smaller}.")

    def on_test_epoch_end(self) -> None:
        """Compute the split's scores."""
        self.scores = self.counter.scores()
