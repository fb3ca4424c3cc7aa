"""segunet's CE + Dice against segmentation_models_pytorch's, forward and backward, 4 x 21 x 256 x 256.

Run: python -m tests.benchmarks.loss
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from segunet.losses.segmentation import CrossEntropy, SegmentationLoss
from tests.benchmarks.timing import hardware, medians


def main(rounds: int = 15) -> float:
    """Print both times; return how many times faster segunet's is."""
    torch.manual_seed(0)
    logits = torch.randn(4, 21, 256, 256)
    masks = torch.randint(0, 21, (4, 256, 256))
    masks[:, :16] = 255
    ours = SegmentationLoss(CrossEntropy(), ignore_index=255)
    theirs_ce = smp.losses.SoftCrossEntropyLoss(ignore_index=255, smooth_factor=0.0)
    theirs_dice = smp.losses.DiceLoss("multiclass", ignore_index=255)

    def step_ours() -> None:
        leaf = logits.clone().requires_grad_()
        ours(leaf, masks).total.backward()

    def step_theirs() -> None:
        leaf = logits.clone().requires_grad_()
        total: Tensor = theirs_ce(leaf, masks) + theirs_dice(leaf, masks)
        total.backward()  # type: ignore[no-untyped-call]

    times = medians({"segunet": step_ours, "smp": step_theirs}, rounds)
    ratio = times["smp"] / times["segunet"]
    print(f"CE + Dice, forward and backward at 4 x 21 x 256 x 256 ({hardware()})")
    for name, seconds in times.items():
        print(f"  {name:8s} {1000 * seconds:7.1f} ms")
    print(f"  segunet is {ratio:.1f} times faster")
    return ratio


if __name__ == "__main__":
    main()
