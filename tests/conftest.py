"""What the tests share.

``voc_folder`` (one per test, yours to damage): a folder in VOC's layout; classes background, disc, square.
``trained`` (one for all tests, to be read only): the folder of a run on such a folder, which is ``trained / "voc"``.
``denoiser`` (likewise): the folder of a denoiser's run.
``run``: a command of segunet, run as its user would type it.
"""

import gc
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from absl import logging as absl_logging
from numpy.random import default_rng
from PIL import Image

from segunet import train
from segunet.base.files import write_json
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.inference import precision
from tests.commands import TINY, TINY_DENOISER, Command, main, make_command

# (height, width) of the images of a split, in the list's order.
VOC_SIZES = {
    "train": [(64, 64), (72, 80), (80, 64), (64, 80), (70, 66), (64, 64)],
    "val": [(64, 64), (64, 80), (72, 65), (64, 64)],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of whole commands and trainings, which take longest: then all processes end together."""
    items.sort(key=lambda item: item.path.parent.name not in ("tests", "training"))


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collection."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Let each test begin with Ctrl-C as Python has it: background jobs ignore it, Lightning does from its first."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def _captured_output_stays_open() -> None:
    """Keep absl's log handler (TensorBoard and OpenVINO import it) from closing what pytest captures stderr with.

    It closes its stream whenever a library configures logging, as submitit does, unless that is the real stderr.
    """
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True, scope="session")
def _label_facts_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered of masks out of the user's outputs/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segunet.data.labels.CACHE", tmp_path_factory.mktemp("labels"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _float32_on_cpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let precision=auto find that bfloat16 is no faster here, whatever the machine; also in other processes."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr(precision, "SPEED_UPS", cache / "segunet" / precision.SPEED_UPS.name)
        write_json(precision.SPEED_UPS, {precision.machine(): 1.0})
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return make_command(capsys)


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """Write 6 training and 4 validation images of 64 to 80 pixels, each with both classes and a 255 border."""
    _write_voc_folder(tmp_path / "voc")
    return tmp_path / "voc"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    _write_voc_folder(folder / "voc")
    main(train, *TINY, f"data.root={folder / 'voc'}", "trainer.max_epochs=2", f"run_dir={folder}")
    return folder


@pytest.fixture(scope="session")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a conditional denoiser for two epochs."""
    folder = tmp_path_factory.mktemp("denoiser")
    _write_voc_folder(folder / "voc")
    main(train, *TINY_DENOISER, f"data.root={folder / 'voc'}", "trainer.max_epochs=2", f"run_dir={folder}")
    return folder


def _write_voc_folder(root: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for seed, (split, sizes) in enumerate(VOC_SIZES.items()):
        names = [f"{split}_{number}" for number in range(len(sizes))]
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            _write_example(root, name, size, default_rng([seed, number]))
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")


def _write_example(root: Path, name: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Draw a bright disc (class 1) and a dark square (class 2), each with a border of ignored pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = rng.integers(90, 150, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    disc = np.hypot(y - rng.integers(16, 24), x - rng.integers(16, 48))
    square = np.maximum(abs(y - rng.integers(46, 54)), abs(x - rng.integers(12, 52)))
    for index, distance, brightness in ((1, disc, 160), (2, square, 10)):
        mask[distance < 12] = IGNORE_INDEX
        mask[distance < 10] = index
        inside = distance < 11
        image[inside] = rng.integers(brightness, brightness + 80, (int(inside.sum()), 3))
    Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
    indexed = Image.fromarray(mask)
    indexed.putpalette(voc_palette().tobytes())
    indexed.save(root / "SegmentationClass" / f"{name}.png")
