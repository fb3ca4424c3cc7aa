"""Counts over a split, across batches and processes, from which the scores are computed."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from segunet.metrics.boundary import boundary_counts
from segunet.metrics.scores import Scores, class_iou, confusions, mean_of_defined, ratio, scores_from_confusion


class Counter(Metric):
    """Sum confusion matrices and boundaries over a split, and keep each image's mean IoU.

    Args:
        num_classes: K.
        ignore_index: mask value of ignored pixels; see ``scores_from_confusion`` if it is a class.
        boundary_iou: whether to count boundaries too, which takes time.
    """

    confusion: Tensor
    images: Tensor
    boundaries: Tensor

    def __init__(self, num_classes: int, ignore_index: int, boundary_iou: bool = False) -> None:
        super().__init__()
        self.num_classes, self.ignore_index, self.boundary_iou = num_classes, ignore_index, boundary_iou
        for name, shape in (
            ("confusion", (num_classes, num_classes)),
            ("images", ()),
            ("boundaries", (2, num_classes)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.image_miou: dict[str, float] = {}

    def update(self, predictions: Tensor, masks: Tensor, names: Sequence[str]) -> None:
        """Add N images.

        Args:
            predictions: int64 (N, H, W), 0..K-1.
            masks: of any integer type, (N, H, W), 0..K-1 or ``ignore_index``.
            names: names of the images.
        """
        counts = confusions(predictions, masks, self.num_classes, self.ignore_index)
        self.confusion += counts.sum(dim=0)
        self.images += len(names)
        ious = class_iou(counts.cpu().numpy(), self.ignore_index)
        self.image_miou |= {name: mean_of_defined(iou) for name, iou in zip(names, ious, strict=True)}
        if self.boundary_iou:
            for prediction, mask in zip(predictions.cpu().numpy(), masks.cpu().numpy(), strict=True):
                both = boundary_counts(prediction, mask, self.num_classes, self.ignore_index)
                self.boundaries += torch.from_numpy(both).to(self.boundaries.device)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums over all processes: confusion matrix, images, boundaries (in both, in either)."""
        return self.confusion, self.images, self.boundaries

    def scores(self) -> Scores:
        """Return the scores over all processes, and reset."""
        confusion, images, (both, either) = (each.cpu().numpy() for each in self.compute())
        boundary_iou = ratio(both, either) if self.boundary_iou else None
        scores = scores_from_confusion(confusion, int(images), self._gathered(), boundary_iou, self.ignore_index)
        self.reset()
        return scores

    def reset(self) -> None:
        """Reset all counts."""
        super().reset()
        self.image_miou = {}

    def _gathered(self) -> dict[str, float]:
        """Return each image's mean IoU, over all processes, sorted by name."""
        everyone = [self.image_miou]
        if distributed.is_available() and distributed.is_initialized():
            everyone *= distributed.get_world_size()
            distributed.all_gather_object(everyone, self.image_miou)
        return dict(sorted(pair for each in everyone for pair in each.items()))
