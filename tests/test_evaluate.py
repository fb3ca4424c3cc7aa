"""Evaluation through the command itself, on what training wrote."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer

from segunet import evaluate, export, predict, summary, train
from segunet.base.errors import UserError
from segunet.data.dataset import Batch
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.voc import list_pairs
from segunet.images.palette import ClassColours, voc_palette
from segunet.images.reading import read_image, read_size
from segunet.inference.checkpoint import load_checkpoint
from segunet.training.callbacks import SavePredictions
from tests.commands import TINY, Command
from tests.metrics.test_boundary import by_distances
from tests.metrics.test_scores import scores_by_loop


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_evaluation_gives_training_s_numbers_to_the_last_digit(run: Command, trained: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        options = [f"data.num_workers={workers}", f"run_dir={tmp_path / str(workers)}", "trainer.accelerator=cpu"]
        result = run(evaluate, f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "boundary_iou=false", *options)
        assert result.status == 0, result.error
        assert "mIoU" in result.output
        assert metrics_of(tmp_path / str(workers)) == metrics_of(trained)
    for name in ("per_class.csv", "confusion_matrix.png", "image_truth_prediction.png", "config.yaml"):
        assert (tmp_path / "0" / name).is_file()


def test_another_batch_size_changes_next_to_nothing(run: Command, trained: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
    run(evaluate, checkpoint, "data.val_batch_size=1", f"run_dir={tmp_path / 'one'}")
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "fwiou"):
        assert metrics_of(tmp_path / "one")[name] == pytest.approx(metrics_of(trained)[name], abs=1e-4)


def test_the_numbers_are_those_of_the_saved_predictions(
    run: Command, trained: Path, voc_folder: Path, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints" / "best.ckpt"
    out = tmp_path / "out"
    run(evaluate, f"checkpoint={checkpoint}", "save_predictions=true", "split=train", f"run_dir={out}")
    loaded = load_checkpoint(checkpoint)
    form = MaskFormat(3, 255, loaded.colours.palette)
    confusion = np.zeros((3, 3), dtype=np.int64)
    pairs = list_pairs(voc_folder, "train")
    for pair in pairs:
        image = read_image(pair.image)
        truth = read_mask(pair.mask, image.shape[:2], form)
        with Image.open(out / "predictions" / f"{pair.name}.png") as file:
            assert file.mode == "P"
            assert file.getpalette() == loaded.colours.palette.ravel().tolist()
            prediction = np.asarray(file)
        with torch.no_grad():
            logits = loaded.net(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
        assert (prediction == logits[0].argmax(0).numpy()).mean() > 0.999
        for t, p in zip(truth[truth != 255], prediction[truth != 255], strict=True):
            confusion[t, p] += 1
    assert metrics_of(out)["confusion_matrix"] == confusion.tolist()
    assert metrics_of(out)["images"] == len(pairs)


def test_inference_size_is_kept_in_the_checkpoint(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    options = [*TINY, f"data.root={voc_folder}", "trainer.max_epochs=1", "inference_size=40"]
    run(train, *options, f"run_dir={tmp_path / 'train'}")
    checkpoint = f"checkpoint={tmp_path / 'train/checkpoints/best.ckpt'}"
    run(evaluate, checkpoint, "boundary_iou=false", f"run_dir={tmp_path / 'as_trained'}")
    run(evaluate, checkpoint, "inference_size=null", f"run_dir={tmp_path / 'own_size'}")
    assert metrics_of(tmp_path / "as_trained") == metrics_of(tmp_path / "train")
    assert metrics_of(tmp_path / "own_size")["confusion_matrix"] != metrics_of(tmp_path / "train")["confusion_matrix"]


@pytest.mark.parametrize("tta", ["flip", "multiscale"])
def test_test_time_augmentation_scores_every_image(run: Command, trained: Path, tmp_path: Path, tta: str) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
    result = run(evaluate, checkpoint, f"tta={tta}", f"run_dir={tmp_path / tta}")
    assert result.status == 0, result.error
    assert metrics_of(tmp_path / tta)["images"] == metrics_of(trained)["images"]


def test_the_data_set_can_be_given_anew(run: Command, trained: Path, voc_folder: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["segunet"]["data"]["root"] = str(tmp_path / "gone")
    torch.save(content, tmp_path / "best.ckpt")
    checkpoint = f"checkpoint={tmp_path / 'best.ckpt'}"
    assert str(tmp_path / "gone") in run(evaluate, checkpoint).error
    assert run(evaluate, checkpoint, f"data.root={voc_folder}", f"run_dir={tmp_path / 'a'}").status == 0
    given = [
        "data=custom",
        f"data.root={voc_folder}",
        "data.class_names=[background,disc,square]",
        "data.num_workers=0",
    ]
    assert run(evaluate, checkpoint, *given, f"run_dir={tmp_path / 'b'}").status == 0
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    fewer = run(evaluate, checkpoint, *given[:2], "data.class_names=[background,disc]", f"run_dir={tmp_path / 'c'}")
    assert "3 classes" in fewer.error
    assert "2 (" in fewer.error
    assert not (tmp_path / "c").exists()


def test_bad_checkpoints_are_refused_by_name(run: Command, trained: Path, tmp_path: Path) -> None:
    good = trained / "checkpoints" / "best.ckpt"
    cut, text, plain = tmp_path / "cut.ckpt", tmp_path / "text.ckpt", tmp_path / "plain.pth"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    text.write_text("no checkpoint")
    torch.save({"weight": torch.zeros(2)}, plain)
    for path in (tmp_path / "missing.ckpt", cut, text, plain):
        result = run(evaluate, f"checkpoint={path}", f"run_dir={tmp_path / 'out'}")
        assert result.status == 1
        assert str(path) in result.error
        assert "Traceback" not in result.error
    assert "checkpoint=PATH" in run(evaluate).error
    assert "tta must be" in run(evaluate, f"checkpoint={good}", "tta=unknown").error
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_cannot_name_code_to_run(run: Command, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    run_it = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    content["segunet"]["model"]["mean"] = (run_it, run_it, run_it)
    torch.save(content, tmp_path / "evil.ckpt")
    image = list_pairs(trained / "voc", "val")[0].image
    for module, options in ((evaluate, ()), (predict, [f"input={image}"]), (export, ()), (summary, ())):
        result = run(module, f"checkpoint={tmp_path / 'evil.ckpt'}", *options)
        assert result.status == 1, module
        assert "has an invalid description of its network" in result.error, module
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", ["truncated image", "missing mask", "other size", "values"])
def test_a_broken_folder_is_named(run: Command, trained: Path, voc_folder: Path, tmp_path: Path, damage: str) -> None:
    pair = list_pairs(voc_folder, "val")[0]
    if damage == "truncated image":
        pair.image.write_bytes(pair.image.read_bytes()[:-400])
    elif damage == "missing mask":
        pair.mask.unlink()
    else:
        size, value = ((10, 10), 0) if damage == "other size" else (read_size(pair.image)[::-1], 77)
        Image.new("L", size, value).save(pair.mask)
    culprit = pair.image if damage == "truncated image" else pair.mask
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        checkpoint = f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}"
        options = [f"data.root={voc_folder}", f"data.num_workers={workers}", f"run_dir={out}"]
        result = run(evaluate, checkpoint, *options)
        assert result.status == 1
        assert str(culprit) in result.error
        assert "Traceback" not in result.error
        assert not (out / "metrics.json").exists()


def test_the_contours_and_each_image_are_scored(run: Command, trained: Path, voc_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["save_predictions=true", f"run_dir={out}"]
    result = run(evaluate, f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", *options)
    assert "boundary mIoU" in result.output
    counts, of_image = np.zeros((2, 3), dtype=np.int64), {}
    for pair in list_pairs(voc_folder, "val"):
        truth, prediction = (
            np.asarray(Image.open(pair.mask)),
            np.asarray(Image.open(out / f"predictions/{pair.name}.png")),
        )
        counts += np.array([by_distances(prediction, truth, index) for index in range(3)]).T
        of_image[pair.name] = scores_by_loop(truth.astype(np.int64), prediction.astype(np.int64), 3)["miou"]
    metrics = metrics_of(out)
    assert [row["boundary_iou"] for row in metrics["per_class"].values()] == (counts[0] / counts[1]).tolist()
    assert metrics["boundary_miou"] == pytest.approx((counts[0] / counts[1]).mean())
    assert metrics["mean_image_miou"] == pytest.approx(np.mean(list(of_image.values())))
    with (out / "per_image.csv").open() as file:
        rows = {row["image"]: float(row["miou"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx(of_image)


@pytest.mark.parametrize("setting", ["images=-1", "images=some", "boundary_iou=maybe", "save_predictions=1"])
def test_wrong_values_are_refused(run: Command, trained: Path, tmp_path: Path, setting: str) -> None:
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"run_dir={tmp_path / 'out'}"]
    assert setting.partition("=")[0] in run(evaluate, *options, setting).error
    assert not (tmp_path / "out").exists()


def test_somebody_s_own_files_are_left_alone(run: Command, trained: Path, tmp_path: Path) -> None:
    labels = tmp_path / "predictions" / "labels.txt"
    labels.parent.mkdir()
    labels.write_text("precious")
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"run_dir={tmp_path}"]
    result = run(evaluate, *options, "save_predictions=true")
    assert result.status == 1
    assert "contains predictions, which segunet.evaluate did not write" in result.error
    assert [each.read_text() for each in tmp_path.rglob("*") if each.is_file()] == ["precious"]


def test_predictions_are_written_beside_the_user_s_own_files_and_nowhere_else(
    run: Command, trained: Path, tmp_path: Path
) -> None:
    options = [f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", "save_predictions=true", "boundary_iou=false"]
    assert run(evaluate, *options, f"run_dir={tmp_path / 'out'}").status == 0
    predictions = tmp_path / "out" / "predictions"
    written = {path.name: path.read_bytes() for path in predictions.iterdir()}
    assert sorted(written) == sorted(f"{pair.name}.png" for pair in list_pairs(trained / "voc", "val"))
    (predictions / "notes.txt").write_text("precious")
    (predictions / "val_0.png").write_bytes(b"of an earlier checkpoint")
    result = run(evaluate, *options, f"run_dir={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert "1 other file in" in result.output
    now = {path.name: path.read_bytes() for path in predictions.iterdir()}
    assert now == written | {"notes.txt": b"precious"}
    (tmp_path / "mask.png").write_bytes(b"somebody's")
    (predictions / "val_1.png").unlink()
    (predictions / "val_1.png").symlink_to(tmp_path / "mask.png")
    error = run(evaluate, *options, f"run_dir={tmp_path / 'out'}").error
    assert f"{predictions / 'val_1.png'} leads out of its folder, to {tmp_path / 'mask.png'}" in error
    predictions.rename(tmp_path / "elsewhere")
    predictions.symlink_to(tmp_path / "elsewhere")
    assert f"{predictions} leads out of its folder" in run(evaluate, *options, f"run_dir={tmp_path / 'out'}").error
    assert (tmp_path / "mask.png").read_bytes() == b"somebody's"


def test_sigterm_ends_an_evaluation_with_the_status_that_a_scheduler_knows(
    run: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "segunet.training.progress.ScoringProgress.on_test_batch_end", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    result = run(evaluate, f"checkpoint={trained / 'checkpoints' / 'best.ckpt'}", f"run_dir={tmp_path / 'out'}")
    assert result.status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in result.output
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_prediction_s_name_leads_nowhere_else(tmp_path: Path) -> None:
    writer = SavePredictions(
        tmp_path / "predictions", ClassColours(["a", "b"], voc_palette(), 255, None), georeferenced={}
    )
    for name in ("../outside", str(tmp_path / "outside")):
        batch = Batch(torch.zeros(1), torch.zeros(1), [name])
        with pytest.raises(UserError, match="leads out of its folder"):
            writer.on_test_batch_end(Trainer(), LightningModule(), torch.zeros(1, 4, 4), batch)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_no_reason_to_write_a_data_set(run: Command, trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    target = "segunet.data.datamodule.SampleDataModule"
    content["segunet"]["data"] |= {"_target_": target, "root": str(tmp_path / "elsewhere")}
    torch.save(content, tmp_path / "best.ckpt")
    assert "elsewhere" in run(evaluate, f"checkpoint={tmp_path / 'best.ckpt'}").error
    assert not (tmp_path / "elsewhere").exists()
