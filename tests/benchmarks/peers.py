"""A training step of segunet's default network and loss beside those of its peers, each as its user runs it.

256 x 256, 21 classes, AdamW, alternating rounds: segmentation_models_pytorch's Unet("resnet50") with its CE + Dice,
contiguous and in channels_last; torchvision's fcn_resnet50 and deeplabv3_resnet50 with cross-entropy; the article's
network. segunet also in bfloat16, which precision=auto takes on CPUs that are faster with it, and with
gradient_checkpointing=true. The peak memory is that of a fresh process, after a tiny step has loaded every library.

Run: python -m tests.benchmarks.peers [BATCH]
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchvision
from hydra.utils import instantiate
from torch import Tensor, nn

from segunet.cli.overrides import composed
from segunet.cost.measurement import peak_memory
from segunet.training import build
from tests.benchmarks.timing import hardware, medians

SIZE, CLASSES, IGNORE = 256, 21, 255
Step = Callable[[], None]
Loss = Callable[[Tensor, Tensor], Tensor]


def step_of(net: nn.Module, loss: Loss, images: Tensor, bf16: bool = False) -> Step:
    """Return a function that takes one training step on the same batch each time, on the images' device."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    masks = torch.randint(0, CLASSES, (len(images), *images.shape[-2:]), device=images.device)
    masks[:, :16] = IGNORE

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            logits = net(images)
        loss(logits, masks).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def segunet_step(
    batch: int, size: int, model: str = "unet_resnet50", bf16: bool = False, checkpointing: bool = False
) -> Step:
    """Return the step of a network of conf/ with the default loss."""
    cfg = composed("train", ["data=voc2012", f"model={model}", "model.encoder.weights=null"])
    net = build.net_from_config(cfg.model, checkpointing).to(memory_format=torch.channels_last)
    loss = instantiate(cfg.loss, _convert_="all")
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    return step_of(net, lambda logits, masks: loss(logits, masks).total, images, bf16)


def smp_step(batch: int, size: int, memory_format: torch.memory_format) -> Step:
    """Return the step of smp's net and loss; its users normalise in the loader, so it gets floats."""
    net = smp.Unet("resnet50", encoder_weights=None, classes=CLASSES).to(memory_format=memory_format)
    cross_entropy = smp.losses.SoftCrossEntropyLoss(ignore_index=IGNORE, smooth_factor=0.0)
    dice = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE)
    images = torch.rand(batch, 3, size, size).contiguous(memory_format=memory_format)
    return step_of(net, lambda logits, masks: cross_entropy(logits, masks) + dice(logits, masks), images)


def torchvision_step(batch: int, size: int, name: str) -> Step:
    """Return the step of a network of torchvision with cross-entropy."""
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)

    def loss(outputs: dict[str, Tensor], masks: Tensor) -> Tensor:
        return F.cross_entropy(outputs["out"], masks, ignore_index=IGNORE)

    return step_of(net, loss, torch.rand(batch, 3, size, size))  # type: ignore[arg-type]


STEPS: dict[str, Callable[[int, int], Step]] = {
    "segunet": segunet_step,
    "segunet, bfloat16": partial(segunet_step, bf16=True),
    "segunet, gradient checkpointing": partial(segunet_step, checkpointing=True),
    "smp": partial(smp_step, memory_format=torch.contiguous_format),
    "smp, channels_last": partial(smp_step, memory_format=torch.channels_last),
    "torchvision fcn_resnet50": partial(torchvision_step, name="fcn_resnet50"),
    "torchvision deeplabv3_resnet50": partial(torchvision_step, name="deeplabv3_resnet50"),
    "the article's network": partial(segunet_step, model="article"),
}


def peak_of(name: str, batch: int) -> int:
    """Return the bytes by which three steps raise this process's peak memory above that of a tiny step."""
    STEPS[name](2, 64)()
    level = peak_memory(torch.device("cpu"))
    step = STEPS[name](batch, SIZE)
    for _ in range(3):
        step()
    return peak_memory(torch.device("cpu")) - level


def main(batch: int = 4, rounds: int = 7) -> None:
    """Print speeds and peak memory."""
    torch.manual_seed(0)
    seconds = medians({name: make(batch, SIZE) for name, make in STEPS.items()}, rounds)
    print(f"training step at {SIZE} x {SIZE}, batch {batch} ({hardware()})")
    print(f"{'':32s}images/s  segunet / this  bfloat16 / this  peak memory")
    for name, each in seconds.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            peak = fresh.submit(peak_of, name, batch).result()
        ratios = (each / seconds["segunet"], each / seconds["segunet, bfloat16"])
        print(f"{name:32s}{batch / each:8.2f}  {ratios[0]:14.2f}  {ratios[1]:15.2f}  {peak / 1e9:8.2f} GB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
