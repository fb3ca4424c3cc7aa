"""Examples and their order: the same for any number of workers, new in each epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from segunet.base.errors import UserError
from segunet.data.dataset import (
    Batch,
    EpochSampler,
    EvalDataset,
    TrainDataset,
    as_batch,
    batches_of_equal_size,
    collate,
)
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.transforms import TrainTransform
from segunet.data.voc import list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from tests.conftest import VOC_SIZES

FORM = MaskFormat(3, IGNORE_INDEX, voc_palette())


def train_dataset(folder: Path, seed: int = 0) -> TrainDataset:
    return TrainDataset(list_pairs(folder, "train"), FORM, TrainTransform(48, IGNORE_INDEX), seed)


def two_epochs(folder: Path, workers: int, seed: int = 0) -> list[list[Batch]]:
    """Draw two epochs from one loader, as a training does."""
    dataset = train_dataset(folder, seed)
    sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=seed)
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "collate_fn": collate}
    loader = DataLoader(dataset, 2, sampler=sampler, **options)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append([Batch(batch.images.clone(), batch.masks.clone(), list(batch.names)) for batch in loader])
    return epochs


def flat(epochs: list[list[Batch]]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    batches = [batch for epoch in epochs for batch in epoch]
    names = [name for batch in batches for name in batch.names]
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.masks for batch in batches]), names


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same_epochs(voc_folder: Path, workers: int) -> None:
    wanted, got = flat(two_epochs(voc_folder, 0)), flat(two_epochs(voc_folder, workers))
    assert got[2] == wanted[2]
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_second_epoch_and_every_worker_draw_anew(voc_folder: Path, workers: int) -> None:
    # One and the same image under every name: whatever differs is the augmentation.
    for pair in list_pairs(voc_folder, "train")[1:]:
        pair.image.write_bytes((voc_folder / "JPEGImages/train_0.jpg").read_bytes())
        pair.mask.write_bytes((voc_folder / "SegmentationClass/train_0.png").read_bytes())
    images = flat(two_epochs(voc_folder, workers))[0]
    assert len({image.numpy().tobytes() for image in images}) == 12


def test_another_seed_gives_other_images_in_another_order(voc_folder: Path) -> None:
    first, second = (flat(two_epochs(voc_folder, 0, seed)) for seed in (0, 1))
    assert first[2] != second[2]
    assert not torch.equal(first[0], second[0])


def test_an_example_depends_on_its_key_alone(voc_folder: Path) -> None:
    dataset = train_dataset(voc_folder)
    first = dataset[(3, 1)]
    dataset[(0, 0)]
    for again in (dataset[(3, 1)], train_dataset(voc_folder)[(3, 1)]):
        assert torch.equal(again.images, first.images)
        assert torch.equal(again.masks, first.masks)
    assert not torch.equal(dataset[(4, 1)].images, first.images)
    assert not torch.equal(dataset[(1, 3)].images, first.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_shuffles_and_augments_anew(voc_folder: Path, workers: int) -> None:
    torch.manual_seed(0)
    dataset = train_dataset(voc_folder)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, collate_fn=collate, num_workers=workers)
    epochs = [flat([[*loader]]) for _ in range(2)]
    assert [sorted(names) for _, _, names in epochs] == [sorted(pair.name for pair in dataset.pairs)] * 2
    assert epochs[0][2] != epochs[1][2]
    by_name = [dict(zip(names, images, strict=True)) for images, _, names in epochs]
    assert not any(torch.equal(image, by_name[1][name]) for name, image in by_name[0].items())


def test_training_examples_are_bytes(voc_folder: Path) -> None:
    dataset = train_dataset(voc_folder)
    example = dataset[(0, 2)]
    assert (example.images.dtype, example.images.shape) == (torch.uint8, (3, 48, 48))
    assert (example.masks.dtype, example.masks.shape) == (torch.uint8, (48, 48))
    assert example.names == "train_2"
    assert len(dataset) == 6


def test_whole_images_come_as_they_are(voc_folder: Path) -> None:
    pairs = list_pairs(voc_folder, "val")
    dataset = EvalDataset(pairs, FORM, None)
    assert len(dataset) == 4
    for index, pair in enumerate(pairs):
        example = dataset[index]
        image = read_image(pair.image)
        assert (example.images.numpy() == image.transpose(2, 0, 1)).all()
        assert (example.masks.numpy() == read_mask(pair.mask, image.shape[:2], FORM)).all()
        assert (example.images.dtype, example.masks.dtype) == (torch.uint8, torch.uint8)
        assert example.names == pair.name


@pytest.mark.parametrize(("inference_size", "wanted"), [(40, (32, 40)), (160, (128, 160)), (80, (64, 80))])
def test_the_inference_size_resizes_the_image_and_never_the_mask(
    voc_folder: Path, inference_size: int, wanted: tuple[int, int]
) -> None:
    pairs = list_pairs(voc_folder, "val")
    assert VOC_SIZES["val"][1] == (64, 80)
    example = EvalDataset(pairs, FORM, inference_size)[1]
    assert example.images.shape == (3, *wanted)
    assert torch.equal(example.masks, EvalDataset(pairs, FORM, None)[1].masks)


def test_an_unreadable_example_is_named_through_a_worker(voc_folder: Path) -> None:
    pair = list_pairs(voc_folder, "train")[4]
    pair.image.write_bytes(b"damaged")
    for workers in (0, 1):
        with pytest.raises(UserError) as caught:
            two_epochs(voc_folder, workers)
        assert caught.value.paragraph.startswith(str(pair.image))


def sampler(length: int, rank: int = 0, world: int = 1, **options: Any) -> EpochSampler:
    return EpochSampler(range(length), num_replicas=world, rank=rank, **options)  # type: ignore[arg-type]


def drawn(epoch: int, length: int = 20, **options: Any) -> list[tuple[int, int]]:
    chosen = sampler(length, **options)
    chosen.set_epoch(epoch)
    return list(chosen)


def test_an_epoch_has_every_index_once_in_an_order_of_its_own() -> None:
    orders = [drawn(epoch) for epoch in range(4)]
    for epoch, order in enumerate(orders):
        assert {number for number, _ in order} == {epoch}
        assert sorted(index for _, index in order) == list(range(20))
    assert len({tuple(index for _, index in order) for order in orders}) == 4


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert drawn(3) == drawn(3)
    orders = {tuple(index for _, index in drawn(epoch, seed=seed)) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25
    torch.manual_seed(99)
    assert drawn(3) == drawn(3)


def test_the_shares_of_two_processes_are_disjoint_and_complete() -> None:
    shares = [{index for _, index in drawn(2, rank=rank, world=2)} for rank in (0, 1)]
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == set(range(20))


def test_shares_of_an_odd_number_are_of_equal_size() -> None:
    shares = [drawn(0, length=7, rank=rank, world=2) for rank in (0, 1)]
    assert [len(share) for share in shares] == [4, 4]
    assert {index for share in shares for _, index in share} == set(range(7))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_of_equal_size_have_every_index_once(voc_folder: Path, batch_size: int) -> None:
    pairs = list_pairs(voc_folder, "train")
    batches = batches_of_equal_size(pairs, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({VOC_SIZES["train"][index] for index in batch}) == 1


def test_batches_of_equal_size_are_as_few_as_can_be(voc_folder: Path) -> None:
    assert batches_of_equal_size(list_pairs(voc_folder, "train"), 2) == [[0, 5], [1], [2], [3], [4]]


def test_images_turned_by_exif_are_batched_by_their_upright_size(voc_folder: Path) -> None:
    pairs = list_pairs(voc_folder, "train")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 80)).save(pairs[2].image, exif=exif)  # stored 80 high, upright 64 high and 80 wide
    assert [2, 3] in batches_of_equal_size(pairs, 8)


def test_a_mask_s_bytes_stay_bytes() -> None:
    batch = as_batch(np.zeros((2, 3, 3), dtype=np.uint8), np.full((2, 3), 255, dtype=np.uint8), "name")
    assert batch.masks.tolist() == [[255] * 3] * 2
    assert batch.images.shape == (3, 2, 3)
    assert batch.images.is_contiguous()


def rare_class_folder(root: Path) -> Path:
    """Write 20 images of 96 pixels, all class 0 but for a small spot of class 2 in the last one."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number in range(20):
        mask = np.zeros((96, 96), dtype=np.uint8)
        if number == 19:
            mask[70:73, 11:14] = 2
        Image.fromarray(np.stack([mask * 100] * 3, axis=2)).save(root / "JPEGImages" / f"{number}.png")
        Image.fromarray(mask).save(root / "SegmentationClass" / f"{number}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(map(str, range(20))))
    return root


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balanced_crops_show_each_class_equally_often(tmp_path: Path, balance: float) -> None:
    pairs = list_pairs(rare_class_folder(tmp_path / "voc"), "train")
    transform = TrainTransform(32, IGNORE_INDEX, scale=(1.0, 1.0), color_jitter=0, class_balance=balance)
    dataset = TrainDataset(pairs, FORM, transform, seed=0)
    examples = [dataset[epoch, index] for epoch in range(20) for index in range(20)]
    with_spot = np.mean([bool((example.masks == 2).any()) for example in examples])
    by_chance = 0.05 * 0.16  # the last image is shown, and the crop has the spot
    assert with_spot == pytest.approx(balance / 2 + (1 - balance) * by_chance, abs=0.08)
    for example in examples[:40]:
        assert (example.images[0] == example.masks * 100).all()  # the image's own mask, cut alike


def test_a_balanced_crop_is_centred_on_its_class_as_far_as_the_image_reaches(tmp_path: Path) -> None:
    pairs = list_pairs(rare_class_folder(tmp_path / "voc"), "train")
    transform = TrainTransform(48, IGNORE_INDEX, scale=(1.0, 1.0), flip=0, class_balance=1.0)
    dataset = TrainDataset(pairs, FORM, transform, seed=0)
    del dataset.with_each[0]  # the other class
    for index in range(10):
        example = dataset[0, index]
        assert example.names == "19"
        rows, columns = (np.flatnonzero((example.masks == 2).any(dim=axis)) for axis in (1, 0))
        assert 22 <= rows[0] <= 24 <= rows[-1] + 1 <= 27  # around the middle
        assert (columns == [11, 12, 13]).all()  # the crop begins at the left edge


def test_a_mask_that_lost_its_class_is_named(tmp_path: Path) -> None:
    pairs = list_pairs(rare_class_folder(tmp_path / "voc"), "train")
    dataset = TrainDataset(pairs, FORM, TrainTransform(32, IGNORE_INDEX, class_balance=1.0), seed=0)
    del dataset.with_each[0]
    Image.new("L", (96, 96)).save(pairs[19].mask)
    with pytest.raises(UserError, match=r"19\.png has changed since the start: class 2 is no longer in it"):
        dataset[0, 0]


def test_ignored_pixels_are_no_class_to_balance(voc_folder: Path) -> None:
    form = MaskFormat(3, 0, voc_palette())  # the background is ignored
    for path in (voc_folder / "SegmentationClass").glob("*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == IGNORE_INDEX, 0, mask).astype(np.uint8)).save(path)
    transform = TrainTransform(32, 0, class_balance=0.5)
    dataset = TrainDataset(list_pairs(voc_folder, "train"), form, transform, seed=0)
    assert {value: indices.tolist() for value, indices in dataset.with_each.items()} == {1: [*range(6)], 2: [*range(6)]}


def test_balanced_crops_are_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    pairs = list_pairs(rare_class_folder(tmp_path / "voc"), "train")
    transform = TrainTransform(32, IGNORE_INDEX, class_balance=0.5)

    def names(seed: int, epoch: int) -> list[Any]:
        dataset = TrainDataset(pairs, FORM, transform, seed)
        return [dataset[epoch, index].names for index in range(20)]

    assert names(0, 0) == names(0, 0)
    assert names(0, 0) != names(0, 1)
    assert names(0, 0) != names(1, 0)
