"""The loaders and the checks before a run, on a tiny folder and on the written sample."""

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segunet.base.errors import UserError
from segunet.data import sample
from segunet.data.classes import full_palette
from segunet.data.datamodule import SampleDataModule, VOCDataModule
from segunet.data.masks import read_mask
from segunet.data.sample import _SHAPES, RECIPE
from segunet.data.transforms import TrainTransform
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.losses.weight_map import BorderWeights
from tests.conftest import VOC_SIZES

CLASS_NAMES = ["background", "disc", "square"]


def datamodule(root: Path, setup: str | None = "fit", **changes: Any) -> VOCDataModule:
    options: dict[str, Any] = {
        "class_names": CLASS_NAMES,
        "ignore_index": IGNORE_INDEX,
        "train_split": "train",
        "val_split": "val",
        "transform": TrainTransform(48, IGNORE_INDEX),
        "batch_size": 2,
        "val_batch_size": 2,
        "num_workers": 0,
    }
    made = VOCDataModule(str(root), **(options | changes))
    if setup:
        made.setup(setup)
    return made


def on_process(made: VOCDataModule, rank: int, world: int) -> VOCDataModule:
    """Let the data module see the process that Lightning's trainer would tell of."""
    made.trainer = SimpleNamespace(world_size=world, global_rank=rank)  # type: ignore[assignment]
    return made


def test_values_out_of_range_are_refused_by_name(tmp_path: Path) -> None:
    no_numbers = (0, -4, 1.5, "abc", None)
    for name, values in {
        "data.batch_size": no_numbers,
        "data.val_batch_size": no_numbers,
        "data.num_workers": (-1, "abc"),
        "data.ignore_index": (256, -100, "abc"),
        "data.download": (1, "yes"),
        "data.class_names": ("background", {"background": 1}, 3, None, [], ["disc", "disc"], [1, "1"], [True, "a"]),
        "data.palette": ([], [[0, 0, 0]] * 4, [[0, 0]] * 3, [[0, 0, 256]] * 3, [[-1, 0, 0]] * 3, [[0.5, 0, 1]] * 3, 5),
        "data.image_range": ([9, 0], [0, 0], [0], [0, 70000], [-1, 5], "auto", 9, [0, math.nan], ["0", "9"], [True, 9]),
        "inference_size": (0, -1, "abc"),
    }.items():
        for value in values:
            with pytest.raises(UserError, match=rf"^{name}.* got "):
                datamodule(tmp_path, setup=None, **{name.removeprefix("data."): value})


def test_a_batch_larger_than_the_list_is_refused(voc_folder: Path) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size is 7, but list .train. .* 6 examples"):
        datamodule(voc_folder, batch_size=7)
    assert len(datamodule(voc_folder, batch_size=6).train_dataloader()) == 1


@pytest.mark.parametrize("value", [0, 2, 3, 255])
def test_any_value_of_a_mask_can_be_ignored(tmp_path: Path, value: int) -> None:
    assert datamodule(tmp_path, setup=None, ignore_index=value).form.ignore_index == value


def test_a_mask_has_values_for_256_classes(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(257)]
    assert datamodule(tmp_path, setup=None, class_names=names[:256]).form.num_classes == 256
    with pytest.raises(UserError, match="one name, class 0: at least two are needed"):
        datamodule(tmp_path, setup=None, class_names=names[:1])
    with pytest.raises(UserError, match="257 names"):
        datamodule(tmp_path, setup=None, class_names=names)


def test_names_that_look_like_numbers_are_names(tmp_path: Path) -> None:
    assert datamodule(tmp_path, setup=None, class_names=[0, "road", 2.5]).class_names == ["0", "road", "2.5"]


def test_every_image_is_held_out_in_one_fold(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").unlink()  # which is not needed
    listed = [f"train_{number}" for number in range(6)]
    held_out = []
    for fold in range(4):
        made = datamodule(voc_folder, fold=fold, folds=4)
        names = [[pair.name for pair in pairs] for pairs in (made.train_pairs, made.val_pairs)]
        assert names == [[name for name in listed if name in part] for part in names]  # in the list's order
        assert sorted(names[0] + names[1]) == listed
        assert len(names[1]) in (1, 2)
        assert made.val_name == f"fold {fold} of 4 of train"
        held_out += names[1]
        again = datamodule(voc_folder, setup="test", fold=fold, folds=4)
        assert [pair.name for pair in again.val_pairs] == names[1]
    assert sorted(held_out) == listed
    with pytest.raises(UserError, match=r"data\.fold=5: with data\.folds=5 there are folds 0 to 4"):
        datamodule(voc_folder, fold=5)
    with pytest.raises(UserError, match=r"data\.folds=7: the list has only 6 names"):
        datamodule(voc_folder, fold=0, folds=7)


def test_the_lists_are_read_once(voc_folder: Path) -> None:
    made = datamodule(voc_folder)
    (voc_folder / "ImageSets/Segmentation/val.txt").unlink()
    made.setup("fit")
    assert len(made.val_pairs) == 4
    with pytest.raises(UserError, match=r"no list .*val\.txt"):
        made.setup("test")


def test_a_missing_folder_is_refused_on_setup(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.root is {tmp_path}/nowhere"):
        datamodule(tmp_path / "nowhere")


def test_masks_of_0_and_255_are_refused_before_a_run(voc_folder: Path) -> None:
    for name, size in enumerate(VOC_SIZES["train"]):
        mask = np.zeros(size, dtype=np.uint8)
        mask[:9] = 255
        Image.fromarray(mask).save(voc_folder / "SegmentationClass" / f"train_{name}.png")
    with pytest.raises(UserError, match=r"hold only 0 and 255"):
        datamodule(voc_folder).check_labels()
    datamodule(voc_folder, setup="test").check_labels()


def test_too_little_shared_memory_for_the_loader_processes_is_refused(
    voc_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = datamodule(voc_folder, num_workers=3)
    batch = next(iter(datamodule(voc_folder, batch_size=2).train_dataloader()))
    (largest,) = [each for each in datamodule(voc_folder).val_dataloader() if len(each.names) == 2]
    needed = 6 * max(each.images.nbytes + each.masks.nbytes for each in (batch, largest))
    for room in (None, needed):
        monkeypatch.setattr("segunet.data.datamodule.shared_memory", lambda room=room: room)
        made.check_shared_memory()
    monkeypatch.setattr("segunet.data.datamodule.shared_memory", lambda: needed - 1)
    with pytest.raises(UserError, match=r"data\.num_workers=3 .* 6 batches .* Set data\.num_workers=2, "):
        made.check_shared_memory()
    datamodule(voc_folder).check_shared_memory()  # no processes


def test_an_evaluation_needs_no_training_list(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/train.txt").unlink()
    assert len(datamodule(voc_folder, setup="test").val_dataloader()) == 3


def test_a_home_folder_is_written_with_a_tilde(voc_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(voc_folder.parent))
    assert len(datamodule(Path("~") / voc_folder.name).train_pairs) == 6


# --- class weights ---


def test_class_weights_are_enet_s_by_hand(voc_folder: Path) -> None:
    made = datamodule(voc_folder)
    counts = np.zeros(3)
    for pair in made.train_pairs:
        with Image.open(pair.mask) as image:
            values = np.asarray(image)
        counts += [(values == index).sum() for index in range(3)]
    wanted = [1 / math.log(1.02 + count / counts.sum()) for count in counts]
    assert made.class_weights() == pytest.approx(wanted, abs=1e-4)
    assert all(isinstance(weight, float) for weight in made.class_weights())


def test_an_absent_class_weighs_the_most_and_finitely(voc_folder: Path) -> None:
    weights = datamodule(voc_folder, class_names=[*CLASS_NAMES, "absent"]).class_weights()
    assert weights[3] == max(weights) == pytest.approx(1 / math.log(1.02), abs=1e-3)


# --- palette ---


def test_the_palette_is_voc_s_or_begins_with_the_given_colours() -> None:
    assert (full_palette(None, 3) == voc_palette()).all()
    colours = [[1, 2, 3], [255, 0, 0], [0, 0, 142]]
    palette = full_palette(colours, 3)
    assert palette.dtype == np.uint8
    assert palette[:3].tolist() == colours
    assert (palette[3:] == voc_palette()[3:]).all()


def test_ignored_pixels_never_look_like_a_class() -> None:
    assert full_palette(None, 11, 11)[11].tolist() == [224, 224, 192]  # not VOC's twelfth
    assert full_palette(None, 11, 11, [0, 0, 9])[11].tolist() == [0, 0, 9]
    assert full_palette(None, 3, 0)[0].tolist() == [0, 0, 0]  # a class keeps its colour
    with pytest.raises(UserError, match=r"data\.ignore_color: class 0 is the ignored one"):
        full_palette(None, 3, 0, [1, 2, 3])


def test_stored_values_stand_for_classes_or_the_ignored_index(tmp_path: Path) -> None:
    assert datamodule(tmp_path, setup=None, mask_values={0: 0, 255: 2, -1: 255}).form.values == {0: 0, 255: 2, -1: 255}
    assert datamodule(tmp_path, setup=None, mask_values={}).form.values is None
    reduced = datamodule(tmp_path, setup=None, reduce_zero_label=True).form.values
    assert reduced == {0: 255, 1: 0, 2: 1, 3: 2, 255: 255}
    with pytest.raises(UserError, match="0 in the masks becomes the ignore_index, but 0 is a class"):
        datamodule(tmp_path, setup=None, reduce_zero_label=True, ignore_index=0)
    with pytest.raises(UserError, match="both say what masks hold"):
        datamodule(tmp_path, setup=None, reduce_zero_label=True, mask_values={0: 0})
    with pytest.raises(UserError, match=r"data\.mask_values gives the value 255 class 3: wanted 0\.\.2 or the ignore"):
        datamodule(tmp_path, setup=None, mask_values={0: 0, 255: 3})
    for wrong in ({-40_000: 0}, {70_000: 0}, {"a": 0}, {0: "a"}, {0: True}, [0, 1], 3):
        with pytest.raises(UserError, match=r"^data\.mask_values"):
            datamodule(tmp_path, setup=None, mask_values=wrong)


def test_the_background_must_be_a_class(voc_folder: Path) -> None:
    names = datamodule(voc_folder).class_names
    assert datamodule(voc_folder, background=names[1]).colours.background == 1
    with pytest.raises(UserError, match=r"data\.background=sky: no class has this name"):
        datamodule(voc_folder, background="sky")


def test_the_data_set_reads_masks_by_its_palette(voc_folder: Path) -> None:
    colours = [[10, 10, 10], [200, 0, 0], [0, 200, 0]]
    made = datamodule(voc_folder, palette=colours)
    pair, size = made.val_pairs[0], VOC_SIZES["val"][0]
    indices = np.resize(np.arange(3), size)
    Image.fromarray(np.array(colours, dtype=np.uint8)[indices]).save(pair.mask)
    assert (read_mask(pair.mask, size, made.form) == indices).all()


# --- loaders ---


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("val_batch_size", [1, 2, 8])
def test_validation_has_every_image_once_over_all_processes(voc_folder: Path, world: int, val_batch_size: int) -> None:
    names: list[str] = []
    for rank in range(world):
        loader = on_process(datamodule(voc_folder, val_batch_size=val_batch_size), rank, world).val_dataloader()
        names += [name for batch in loader for name in batch.names]
    assert sorted(names) == ["val_0", "val_1", "val_2", "val_3"]


def test_every_process_of_a_validation_has_a_batch(voc_folder: Path) -> None:
    names = list[str]()
    for rank in range(4):  # 4 images of 3 sizes
        (batch,) = on_process(datamodule(voc_folder, val_batch_size=2), rank, 4).val_dataloader()
        assert len(batch.images) == len(batch.masks) == len(batch.names) == (2, 1, 1, 0)[rank]
        names += batch.names
    assert sorted(names) == [f"val_{index}" for index in range(4)]


def test_a_training_batch_s_images_and_masks_are_bytes(voc_folder: Path) -> None:
    batches = list(datamodule(voc_folder, batch_size=4).train_dataloader())
    assert len(batches) == 1  # the incomplete one is dropped
    assert (batches[0].images.dtype, batches[0].images.shape) == (torch.uint8, (4, 3, 48, 48))
    assert (batches[0].masks.dtype, batches[0].masks.shape) == (torch.uint8, (4, 48, 48))
    assert len(set(batches[0].names)) == 4
    assert set(batches[0].masks.unique().tolist()) <= {0, 1, 2, IGNORE_INDEX}


def test_a_validation_batch_keeps_the_masks_own_size(voc_folder: Path) -> None:
    for batch in datamodule(voc_folder, inference_size=32).val_dataloader():
        assert max(batch.images.shape[-2:]) == 32
        for name, mask in zip(batch.names, batch.masks, strict=True):
            assert mask.shape == VOC_SIZES["val"][int(name[-1])]


def test_training_shares_of_two_processes_are_disjoint(voc_folder: Path) -> None:
    shares = []
    for rank in (0, 1):
        loader = on_process(datamodule(voc_folder, batch_size=1), rank, 2).train_dataloader()
        shares.append({name for batch in loader for name in batch.names})
    assert not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == 6


def test_every_process_of_a_training_has_a_batch(voc_folder: Path) -> None:
    # 6 images make one batch of 4 in a single process, and none in each of two.
    made = on_process(datamodule(voc_folder, setup=None, batch_size=4), 0, 2)
    with pytest.raises(UserError, match=r"data\.batch_size"):
        made.setup("fit")


def test_the_seed_decides_the_training_images(voc_folder: Path) -> None:
    drawn = [next(iter(datamodule(voc_folder, seed=seed).train_dataloader())).images for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("cores", "wanted"), [(4, 4), (32, 8), (None, 1)])
def test_there_is_a_worker_a_core_and_at_most_eight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int | None, wanted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert datamodule(tmp_path, setup=None, num_workers=None).num_workers == wanted
    assert datamodule(tmp_path, setup=None, num_workers=3).num_workers == 3


def test_the_sample_writes_its_folder_and_is_read_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "RECIPE", {**RECIPE, "train": 4, "val": 2})
    made = SampleDataModule(
        str(tmp_path / "sample"),
        class_names=["background", *(name for name, _ in _SHAPES)],
        ignore_index=IGNORE_INDEX,
        train_split="train",
        val_split="val",
        transform=TrainTransform(48, IGNORE_INDEX),
        batch_size=2,
        val_batch_size=2,
        num_workers=0,
    )
    made.prepare_data()
    made.setup("fit")
    assert len(list(made.train_dataloader())) == 2
    assert [len(batch.names) for batch in made.val_dataloader()] == [2]


def test_border_weights_are_for_losses_and_objects_for_scores(voc_folder: Path) -> None:
    weights = BorderWeights()
    fit = datamodule(voc_folder, border_weights=weights)
    assert next(iter(fit.train_dataloader())).border_weights is not None
    example = next(iter(fit.val_dataloader()))
    assert example.border_weights is not None
    assert example.border_weights.shape == example.masks.shape
    assert example.objects is None
    test = datamodule(voc_folder, "test", border_weights=weights, objects=True)
    example = next(iter(test.val_dataloader()))
    assert example.border_weights is None
    assert example.objects is not None
    assert example.objects.max() == 2
    plain = datamodule(voc_folder, border_weights=BorderWeights(w0=0.0))
    assert next(iter(plain.train_dataloader())).border_weights is None
