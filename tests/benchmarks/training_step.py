"""segunet's default net and loss against segmentation_models_pytorch's Unet("resnet50") with its CE + Dice.

One training step (forward, loss, backward, AdamW) at 256 x 256, batch 4, 21 classes, float32, each project's net
as it comes; smp's once more in channels_last, which its user may choose.

Run: python -m tests.benchmarks.training_step
"""

from collections.abc import Callable

import segmentation_models_pytorch as smp
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from segunet.cli.overrides import composed
from segunet.training import build
from tests.benchmarks.timing import hardware, medians

BATCH, SIZE = 4, 256


def step_of(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> Callable[[], None]:
    """Return a function that takes one training step on the same batch each time."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    masks = torch.randint(0, 21, (BATCH, SIZE, SIZE))
    masks[:, :16] = 255

    def step() -> None:
        optimizer.zero_grad()
        loss(net(images), masks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def segunet_step(images: Tensor) -> Callable[[], None]:
    """Return the step of the default net and loss, built from conf/."""
    cfg = composed("train", ["data=voc2012", "model.encoder.weights=null"])
    net = build.net_from_config(cfg.model).to(memory_format=torch.channels_last)
    loss = instantiate(cfg.loss, _convert_="all")
    return step_of(net, lambda logits, masks: loss(logits, masks).total, images)


def smp_step(images: Tensor, memory_format: torch.memory_format) -> Callable[[], None]:
    """Return the step of smp's net and loss; its users normalise in the loader, so it gets floats."""
    net = smp.Unet("resnet50", encoder_weights=None, classes=21).to(memory_format=memory_format)
    cross_entropy = smp.losses.SoftCrossEntropyLoss(ignore_index=255, smooth_factor=0.0)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=255)
    floats = (images.float() / 255).contiguous(memory_format=memory_format)
    return step_of(net, lambda logits, masks: cross_entropy(logits, masks) + dice(logits, masks), floats)


def main(rounds: int = 7) -> float:
    """Print the speeds; return segunet's over smp's."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    steps = {
        "segunet": segunet_step(images),
        "smp": smp_step(images, torch.contiguous_format),
        "smp channels_last": smp_step(images, torch.channels_last),
    }
    speeds = {name: BATCH / seconds for name, seconds in medians(steps, rounds).items()}
    print(f"training step at {SIZE} x {SIZE}, batch {BATCH} ({hardware()})")
    for name, speed in speeds.items():
        print(f"  {name:18s} {speed:6.2f} images/s   segunet / this: {speeds['segunet'] / speed:.2f}")
    return speeds["segunet"] / speeds["smp"]


if __name__ == "__main__":
    main()
