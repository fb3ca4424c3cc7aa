"""Thousands of damaged files through the real readers: each is refused in a paragraph, or read as it was meant.

``python -m pytest tests/test_fuzz.py -s`` prints how many of each kind were read. A file may be read only if the damage
left what it holds unchanged, or, for formats without checksums, if it could be another file of its kind.
"""

import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from segunet.base.errors import UserError
from segunet.base.files import stays_below
from segunet.base.torch_file import read_torch_file
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.voc import read_names
from segunet.images.palette import voc_palette
from segunet.images.reading import read_image, read_size
from segunet.inference.checkpoint import Checkpoint, load_checkpoint
from segunet.training.resume import progress_in
from segunet.training.saved_config import ConfigParser
from tests.exports import Exports, export_to_every_format

SIZE = (37, 50)
LONGEST = 20.0  # seconds that reading one file may take, on a busy machine
NUMBERS = [0, 1, 65535, 10**6, 2**31 - 1, 2**31, 2**32 - 1]  # that sizes and counts are replaced by


def damaged(data: bytes, seed: int) -> bytes:
    """Return other bytes after one to three damages, half of them near the beginning, where files have their sizes."""
    rng, whole = default_rng(seed), data
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(data) if rng.integers(2) else min(len(data), 256)))
        length = int(rng.integers(1, 64))
        before, part, after = data[:place], data[place : place + length], data[place + length :]
        noise, number = rng.bytes(length), int(rng.choice(NUMBERS))
        choices = (
            before + part,  # cut
            before + after,
            before + bytes(len(part)) + after,
            before + part + part + after,
            before + noise + part + after,
            before + noise[: len(part)] + after,
            before + bytes([part[0] ^ 1 << int(rng.integers(8))]) + part[1:] + after,
            before + number.to_bytes(4, "little" if rng.integers(2) else "big") + part[4:] + after,
            data + noise,
        )
        data = choices[rng.integers(len(choices))] or b"\0"
    return data if data != whole else data + b"\0"


def fuzz(data: bytes, path: Path, count: int, read: Callable[[Path], Any], accepted: Callable[[Any], bool]) -> None:
    """Read a file, and ``count`` damaged versions of it; print and check the outcomes."""
    path.write_bytes(data)
    assert outcome(path, read, accepted) == "read"
    outcomes = Counter[str]()
    for seed in range(count):
        path.write_bytes(damaged(data, seed))
        began = time.monotonic()
        outcomes[outcome(path, read, accepted)] += 1
        assert time.monotonic() - began < LONGEST, seed
    assert outcomes["refused"] > 0
    print(f"{path.name}: {count} damaged, {outcomes['refused']} refused, {outcomes['read']} read")


def outcome(path: Path, read: Callable[[Path], Any], accepted: Callable[[Any], bool]) -> str:
    try:
        result = read(path)
    except UserError as error:
        text = error.paragraph
        return "refused" if path.stem in text and len(text) < 1500 else pytest.fail(f"no paragraph of {path}: {text}")
    return "read" if accepted(result) else pytest.fail(f"{path} was read as {result}")


def gradient() -> NDArray[np.uint8]:
    """Return an image uint8 (H, W, 3)."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=2).astype(np.uint8)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "bmp": ("BMP", {}),
    "webp": ("WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(tmp_path: Path, kind: str) -> None:
    form, options = IMAGES[kind]
    wanted = gradient()

    def accepted(image: NDArray[np.uint8]) -> bool:
        if form == "PNG":  # has checksums
            return np.array_equal(image, wanted)
        return image.dtype == np.uint8 and image.ndim == 3 and image.shape[:2] == read_size(tmp_path / f"image.{kind}")

    fuzz(encoded(Image.fromarray(wanted), form, **options), tmp_path / f"image.{kind}", 1000, read_image, accepted)


def masks() -> dict[str, tuple[bytes, bool]]:
    """Return masks, and whether their format has checksums."""
    values = (gradient()[..., 0] // 64).astype(np.uint8)
    indexed = Image.fromarray(values)
    indexed.putpalette(voc_palette().tobytes())
    return {
        "palette.png": (encoded(indexed, "PNG"), True),
        "grey.png": (encoded(Image.fromarray(values), "PNG"), True),
        "colours.png": (encoded(indexed.convert("RGB"), "PNG"), True),
        "grey.tif": (encoded(Image.fromarray(values), "TIFF"), False),
    }


@pytest.mark.parametrize("kind", masks())
def test_masks(tmp_path: Path, kind: str) -> None:
    data, checksums = masks()[kind]
    form, wanted = MaskFormat(21, 255, voc_palette()), gradient()[..., 0] // 64

    def accepted(mask: NDArray[np.uint8]) -> bool:
        return np.array_equal(mask, wanted) if checksums else mask.shape == SIZE and mask.dtype == np.uint8

    fuzz(data, tmp_path / f"mask.{kind}", 1000, lambda path: read_mask(path, SIZE, form), accepted)


def test_lists(tmp_path: Path) -> None:
    names = "".join(f"2007_{number:06d}\nday {number}/ä={number}\n" for number in range(20))
    whole = tmp_path / "list.txt"
    fuzz(names.encode(), whole, 1000, read_names, lambda names: all(map(stays_below, names)) and len(names) > 0)


def test_configs(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    whole = (trained / "config.yaml").read_bytes()

    def accepted(config: DictConfig) -> bool:
        content = OmegaConf.to_container(config)
        assert isinstance(content, dict)
        return bool(ConfigParser(path).checked(content) == config)  # typed, and known keys alone

    fuzz(whole, path, 1000, lambda path: ConfigParser(path).parse(), accepted)


def is_same_network(net: torch.nn.Module, wanted: torch.nn.Module) -> bool:
    ours, theirs = net.state_dict(), wanted.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def exports(trained: Path) -> Exports:
    return export_to_every_format(trained / "voc")


def test_checkpoints(exports: Exports, tmp_path: Path) -> None:
    wanted = load_checkpoint(exports.checkpoint)
    fuzz(
        exports.checkpoint.read_bytes(),
        tmp_path / "net.ckpt",
        300,
        load_checkpoint,
        lambda got: is_same_network(got.net, wanted.net) and got.class_names == wanted.class_names,
    )


def test_states_of_training(exports: Exports, tmp_path: Path) -> None:
    wanted = progress_in(torch.load(exports.checkpoint, weights_only=True), exports.checkpoint)
    fuzz(
        exports.checkpoint.read_bytes(),
        tmp_path / "last.ckpt",
        300,
        lambda path: progress_in(read_torch_file(path, ""), path),
        lambda progress: progress == wanted,
    )


@pytest.mark.parametrize("name", ["onnx", "torch_export", "openvino"])
def test_exported_files(exports: Exports, tmp_path: Path, name: str) -> None:
    whole = exports.files[name]
    images = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = load_checkpoint(whole).net(images)
    if name == "openvino":
        (tmp_path / "net.bin").write_bytes(whole.with_suffix(".bin").read_bytes())

    def accepted(got: Checkpoint) -> bool:
        return torch.equal(got.net(images), wanted)

    fuzz(whole.read_bytes(), tmp_path / f"net{whole.suffix}", 100, load_checkpoint, accepted)
