"""Counts over a split, across batches and processes, from which the scores are computed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from segunet.images.objects import connected_objects
from segunet.metrics.boundary import boundary_counts
from segunet.metrics.objects import ObjectCounts, ObjectScores, object_counts, rand_error
from segunet.metrics.scores import Scores, class_iou, confusions, mean_of_defined, ratio, scores_from_confusion


class Counter(Metric):
    """Sum confusion matrices, boundaries and objects over a split, and keep each image's mean IoU.

    Args:
        num_classes: K.
        ignore_index: mask value of ignored pixels; see ``scores_from_confusion`` if it is a class.
        boundary_iou: whether to count boundaries too, which takes time.
        objects: whether to count objects too.
    """

    confusion: Tensor
    images: Tensor
    boundaries: Tensor
    object_counts: Tensor

    def __init__(self, num_classes: int, ignore_index: int, boundary_iou: bool = False, objects: bool = False) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.boundary_iou, self.objects = boundary_iou, objects
        for name, shape in (
            ("confusion", (num_classes, num_classes)),
            ("images", ()),
            ("boundaries", (2, num_classes)),
            ("object_counts", (len(ObjectCounts._fields),)),
        ):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.image_miou: dict[str, float] = {}
        self.rand_errors: dict[str, float] = {}

    def update(self, predictions: Tensor, masks: Tensor, names: Sequence[str], objects: Tensor | None = None) -> None:
        """Add N images.

        Args:
            predictions: int64 (N, H, W), 0..K-1.
            masks: of any integer type, (N, H, W), 0..K-1 or ``ignore_index``.
            names: names of the images.
            objects: int32 (N, H, W), the object of each pixel, 0 for none; wanted if objects are counted.
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
        if self.objects:
            assert objects is not None
            pairs = zip(predictions.to(torch.uint8).cpu().numpy(), masks.cpu().numpy(), strict=True)
            for name, truth, (prediction, mask) in zip(names, objects.cpu().numpy(), pairs, strict=True):
                found = connected_objects(prediction, self.ignore_index)
                found[mask == self.ignore_index] = 0  # but two regions that meet there are one
                self.object_counts += torch.tensor(object_counts(truth, found), device=self.object_counts.device)
                self.rand_errors[name] = rand_error(truth, found)

    def compute(self) -> tuple[Tensor, ...]:
        """Return the sums over all processes: confusion matrix, images, boundaries, object counts."""
        return self.confusion, self.images, self.boundaries, self.object_counts

    def scores(self) -> Scores:
        """Return the scores over all processes, and reset."""
        confusion, images, (both, either), counts = (each.cpu().numpy() for each in self.compute())
        boundary_iou = ratio(both, either) if self.boundary_iou else None
        objects = None
        if self.objects:
            errors = np.array([*_gathered(self.rand_errors).values()])
            objects = ObjectScores(ObjectCounts(*counts.tolist()), mean_of_defined(errors))
        miou = _gathered(self.image_miou)
        scores = scores_from_confusion(confusion, int(images), miou, boundary_iou, self.ignore_index, objects)
        self.reset()
        return scores

    def reset(self) -> None:
        """Reset all counts."""
        super().reset()
        self.image_miou, self.rand_errors = {}, {}


def _gathered(of_images: dict[str, float]) -> dict[str, float]:
    """Return a number of each image, by name, over all processes, sorted by name."""
    everyone = [of_images]
    if distributed.is_available() and distributed.is_initialized():
        everyone *= distributed.get_world_size()
        distributed.all_gather_object(everyone, of_images)
    return dict(sorted(pair for each in everyone for pair in each.items()))
