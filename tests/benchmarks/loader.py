"""Training examples from a VOC folder, on one core: segunet's loader against Pillow and albumentations.

Crops of 512 pixels with scale jitter, flip and colour jitter, from the files to uint8 tensors. The peer's transform is
what albumentations' documentation shows for these operations; the second peer normalises too, which segunet's network
does on the device.

Run: python -m tests.benchmarks.loader ROOT [SPLIT]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image

from segunet.data.dataset import TrainDataset
from segunet.data.masks import MaskFormat
from segunet.data.transforms import TrainTransform
from segunet.data.voc import find_voc_folder, list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from tests.benchmarks.timing import hardware, medians

IMAGES, ROUNDS, SIZE = 100, 7, 512


def main() -> None:
    """Print images per second of each."""
    root, *split = sys.argv[1:]
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    pairs = list_pairs(find_voc_folder(Path(root)), split[0] if split else "train")[:IMAGES]
    form = MaskFormat(21, IGNORE_INDEX, voc_palette())
    dataset = TrainDataset(pairs, form, TrainTransform(SIZE, IGNORE_INDEX), seed=0)
    epoch = iter(range(1_000_000))

    def ours() -> None:
        number = next(epoch)
        for index in range(len(pairs)):
            dataset[number, index]

    def peer(*last: A.BasicTransform) -> Callable[[], None]:
        jitter = (0.7, 1.3)
        compose = A.Compose(
            [
                A.RandomScale((-0.5, 1.0), p=1.0),
                A.PadIfNeeded(SIZE, SIZE, fill=0, fill_mask=IGNORE_INDEX),
                A.RandomCrop(SIZE, SIZE),
                A.HorizontalFlip(p=0.5),
                A.ColorJitter(jitter, jitter, jitter, (-0.03, 0.03), p=1.0),
                *last,
                ToTensorV2(),
            ]
        )

        def load() -> None:
            for pair in pairs:
                image = np.array(Image.open(pair.image).convert("RGB"))
                compose(image=image, mask=np.array(Image.open(pair.mask)))

        return load

    loaders = {
        "segunet": ours,
        "Pillow and albumentations": peer(),
        "and normalised": peer(A.Normalize()),
    }
    times = medians(loaders, ROUNDS)
    print(f"{len(pairs)} images of {root}, crops of {SIZE}, one core ({hardware()})")
    for name, seconds in times.items():
        ratio = seconds / times["segunet"]
        print(f"  {name:26s} {len(pairs) / seconds:6.1f} images/s   segunet is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
