"""The counter against torchmetrics, within bounds of memory, and over two processes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torchmetrics.classification import MulticlassConfusionMatrix

from segunet import train
from segunet.data.voc import list_pairs
from segunet.images.objects import connected_objects
from segunet.metrics.counter import Counter
from segunet.metrics.objects import ObjectCounts, ObjectScores, object_counts, rand_error
from tests.commands import TINY, Command
from tests.runs import board_of

K, IGNORE = 3, 255


def objects_of(masks: Tensor) -> Tensor:
    """Number the columns of each image: what is not background or ignored in column x belongs to object x + 1."""
    columns = torch.arange(masks.shape[-1]) + 1
    return columns.expand(masks.shape).where((masks != 0) & (masks != IGNORE), 0).int()


def batches(count: int = 3) -> list[tuple[Tensor, Tensor, list[str]]]:
    """Predictions int64 and masks uint8 (2, 20, 30), with names."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        predictions, masks = torch.randint(K, (2, 2, 20, 30), generator=generator)
        masks[torch.rand(masks.shape, generator=generator) < 0.2] = IGNORE
        found.append((predictions, masks.to(torch.uint8), [f"{number}a", f"{number}b"]))
    return found


def as_plain(counter: Counter) -> dict[str, Any]:
    values = dataclasses.asdict(counter.scores())
    values["objects"] = repr(values["objects"])
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def counted(parts: list[tuple[Tensor, Tensor, list[str]]]) -> dict[str, Any]:
    counter = Counter(K, IGNORE, boundary_iou=True, objects=True)
    for part in parts:
        counter.update(*part, objects_of(part[1]))
    return as_plain(counter)


def test_it_counts_what_torchmetrics_counts_and_starts_anew() -> None:
    counter, theirs = Counter(K, IGNORE), MulticlassConfusionMatrix(K, ignore_index=IGNORE)
    for _ in range(2):
        for predictions, masks, names in batches():
            counter.update(predictions, masks, names)
            theirs.update(predictions, masks.long())
        scores = counter.scores()
        assert scores.objects is None
        assert scores.confusion.tolist() == theirs.compute().tolist()
        assert scores.images == len(scores.image_miou) == 6
        theirs.reset()


def test_objects_are_summed_over_images_and_their_rand_error_is_averaged() -> None:
    counter = Counter(K, IGNORE, objects=True)
    wanted, errors = np.zeros(4, dtype=int), []
    for predictions, masks, names in batches():
        objects = objects_of(masks)
        counter.update(predictions, masks, names, objects)
        for prediction, mask, truth in zip(predictions.numpy(), masks.numpy(), objects.numpy(), strict=True):
            found = np.where(mask == IGNORE, 0, connected_objects(prediction, IGNORE))
            wanted += object_counts(truth, found)
            errors.append(rand_error(truth, found))
    scores = counter.scores().objects
    assert scores is not None
    assert list(scores.counts) == wanted.tolist()
    assert scores.rand_error == pytest.approx(np.mean(errors))


@pytest.mark.parametrize(
    ("objects", "wanted"),
    [([1, 1, 0, 2, 2], (2, 1, 2, 0)), ([1, 1, 0, 1, 1], (1, 1, 0, 0))],
    ids=["two with an ignored line between them", "one that an ignored line crosses"],
)
def test_a_region_that_crosses_ignored_pixels_is_one(objects: list[int], wanted: tuple[int, ...]) -> None:
    counter = Counter(K, IGNORE, objects=True)
    mask = torch.tensor([[[1, 1, IGNORE, 1, 1]]])
    counter.update(torch.ones_like(mask), mask, ["a"], torch.tensor([[objects]], dtype=torch.int32))
    scores = counter.scores().objects
    assert scores is not None
    assert tuple(scores.counts) == wanted


def test_an_image_without_objects_has_no_part_in_the_rand_error() -> None:
    counter = Counter(K, IGNORE, objects=True)
    masks = torch.tensor([[[1, 1, 0, 2, 2]], [[0, 0, 0, 0, 0]]])
    objects = torch.tensor([[[1, 1, 0, 2, 2]], [[0, 0, 0, 0, 0]]], dtype=torch.int32)
    counter.update(masks, masks, ["with", "without"], objects)
    scores = counter.scores().objects
    assert scores == ObjectScores(ObjectCounts(truth=2, predicted=2, merged=0, split=0), 0.0)


def test_counting_takes_memory_for_the_pixels_and_not_for_each_class_of_them() -> None:
    predictions, masks = torch.zeros(8, 375, 500, dtype=torch.int64), torch.zeros(8, 375, 500, dtype=torch.uint8)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.profiler.profile(profile_memory=True) as profile:
            Counter(21, IGNORE).update(predictions, masks, list("abcdefgh"))
    finally:
        torch.use_deterministic_algorithms(False)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 8 * predictions.numel() + 1000  # bytes: one int64 a pixel


def _count_share(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save(counted(batches()[rank::2]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    spawn(_count_share, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    wanted = counted(batches())
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == wanted


def test_a_training_scores_no_ignored_class(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    """Class 0 is the ignore index, and the run is deterministic too."""
    for pair in [*list_pairs(voc_folder, "train"), *list_pairs(voc_folder, "val")]:
        mask = np.asarray(Image.open(pair.mask))
        Image.fromarray(np.where(mask == IGNORE, 0, mask)).save(pair.mask)
    names = "data.class_names=[background,disc,square,unseen]"
    options = [*TINY, names, f"data.root={voc_folder}", "data.ignore_index=0"]
    folder = tmp_path / "run"
    result = run(train, *options, "trainer.max_epochs=2", "trainer.deterministic=true", f"run_dir={folder}")
    torch.use_deterministic_algorithms(False)
    assert result.status == 0, result.error
    metrics = json.loads((folder / "metrics.json").read_text())
    ious = [row["iou"] for row in metrics["per_class"].values()]
    assert ious[0] is None
    assert metrics["miou"] == np.mean([iou for iou in ious[1:] if iou is not None])
    note = "classes without pixels in the truth (their IoU is 0 or undefined): unseen"
    assert (folder / "train.log").read_text().count(note) == 1
    assert result.output.count(note) == 2  # after the first validation, and below the table
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    callbacks = [state for name, state in best["callbacks"].items() if "'monitor': 'val/miou'" in name]
    assert callbacks[0]["best_model_score"].item() == pytest.approx(metrics["miou"])
    tags = board_of(folder).Tags()["scalars"]
    assert "val/iou/background" not in tags
    assert "val/iou/disc" in tags
