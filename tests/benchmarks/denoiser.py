"""How good the images of a denoiser are: does a segmentation network find in them what the prompt names?

Run: python -m tests.benchmarks.denoiser DENOISER.ckpt SEGMENTATION.ckpt DATA_ROOT [OUTPUT.png]

Both checkpoints are of the data set in DATA_ROOT, such as data/sample. For each class, 64 images are generated and
predicted; a class is found in an image if it has at least 3 % of the pixels. Then the copies are looked for: generated
images that are much nearer to one training image than to any other. OUTPUT.png shows the most suspect ones.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

import segunet
from segunet.base.terminal import console
from segunet.data.voc import list_pairs
from segunet.images.drawing import ImageArray
from segunet.images.reading import read_image
from segunet.inference.generator import Generator
from segunet.inference.predictor import Predictor
from tests.benchmarks.timing import hardware

COUNT = 64  # images per class
STEPS, GUIDANCE = 25, 3.0
FOUND = 0.03  # share of the pixels
NEIGHBOURS = 50
COPY = 0.5  # share of the mean distance to the nearest images

Floats = NDArray[np.float32]


def generated(model: Generator, prompts: list[str]) -> dict[str, ImageArray]:
    """Return uint8 (COUNT, H, W, 3) for each prompt; a network that takes none gets none."""
    generate = partial(model.generate, count=COUNT, steps=STEPS, batch_size=COUNT)
    if not model.class_names:
        return dict.fromkeys(prompts, generate())
    return {prompt: generate(prompt, guidance=GUIDANCE, seed=seed) for seed, prompt in enumerate(prompts)}


def found(judge: Predictor, images: ImageArray) -> NDArray[np.float64]:
    """Return, for each class, the share of the images (N, H, W, 3) in which the judge finds it."""
    masks = np.stack([judge.predict(image) for image in images])
    shares = [(masks == index).mean(axis=(1, 2)) for index in range(len(judge.class_names))]  # each (N,)
    return np.asarray((np.stack(shares) >= FOUND).mean(axis=1))


def show_found(rates: NDArray[np.float64], names: list[str]) -> None:
    """Print the table of ``rates`` (prompt, class), and what the classes have in common."""
    table = Table("prompt", *(f"finds {name}" for name in names), title=f"share of {COUNT} images each")
    for name, row in zip(names, rates, strict=True):
        table.add_row(name, *(f"{100 * rate:.0f} %" for rate in row))
    console.print(table)
    others = rates[~np.eye(len(names), dtype=bool)]
    prompted = rates.diagonal()
    console.print(
        f"prompted: {100 * prompted.mean():.1f} %, at least {100 * prompted.min():.0f} %; unprompted: "
        f"{100 * others.mean():.1f} %, at most {100 * others.max():.0f} %",
        highlight=False,
    )


def distances(images: ImageArray, training: Floats) -> Floats:
    """Return the root mean square difference (N, M) of images (N, H, W, 3) to ``training`` (M, H * W * 3), 0..255."""
    differences = torch.cdist(torch.from_numpy(flat(images)), torch.from_numpy(training))
    return np.asarray(differences / training.shape[1] ** 0.5)


def flat(images: ImageArray) -> Floats:
    """Return float32 (N, H * W * 3)."""
    return images.reshape(len(images), -1).astype(np.float32)


def show_neighbours(title: str, to_training: Floats) -> NDArray[np.int64]:
    """Print how near images are to the training images, and return the images' indices, most suspect first.

    The nearest image's distance is compared with the mean of the 50 nearest (Carlini et al. 2023, section 4.2).
    """
    nearest = np.sort(to_training, axis=1)[:, :NEIGHBOURS]
    ratios = nearest[:, 0] / nearest.mean(axis=1)
    console.print(
        f"{title}: nearest training image {np.median(nearest[:, 0]):.1f} grey levels away (median), "
        f"{nearest[:, 0].min():.1f} at least; that is {np.median(ratios):.2f} of the mean of the {NEIGHBOURS} nearest, "
        f"{ratios.min():.2f} at least; copies (below {COPY}): {(ratios < COPY).sum()} of {len(ratios)}",
        highlight=False,
    )
    return np.argsort(ratios)


def main() -> None:
    """Print the tables."""
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    model, judge = (segunet.load(path) for path in sys.argv[1:3])
    root = Path(sys.argv[3])
    train, val = (np.stack([read_image(pair.image) for pair in list_pairs(root, split)]) for split in ("train", "val"))
    names = judge.class_names[1:]
    console.print(f"{hardware()}; {STEPS} steps, guidance {GUIDANCE:g}", highlight=False)
    began = time.monotonic()
    images = generated(model, names)
    console.print(f"generated in {time.monotonic() - began:.0f} s", highlight=False)
    show_found(np.stack([found(judge, each)[1:] for each in images.values()]), names)

    training = np.concatenate([train, train[:, :, ::-1]])  # and mirrored
    every = np.concatenate(list(images.values()))
    to_training = distances(every, flat(training))
    suspects = show_neighbours("generated", to_training)[:8]
    show_neighbours("validation", distances(val, flat(training)))
    if len(sys.argv) == 5:
        pairs = [np.concatenate([every[index], training[to_training[index].argmin()]]) for index in suspects]
        Image.fromarray(np.concatenate(pairs, axis=1)).save(sys.argv[4])


if __name__ == "__main__":
    main()
