"""Labels of other formats, written by the tests as their tools write them, through the command itself."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from segunet import check_data, import_labels, train
from tests.commands import TINY, Command

SIZE = (48, 64)  # height, width
# A square with a square hole, as polygons cannot have one: run lengths.
RING = np.zeros(SIZE, dtype=np.uint8)
RING[10:30, 20:40] = 1
RING[16:24, 26:34] = 0
TRIANGLE = [4.0, 6.0, 30.5, 8.25, 12.0, 40.0]
BIG, SMALL = [2.0, 2.0, 60.0, 2.0, 60.0, 44.0, 2.0, 44.0], [10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]
CROWD = np.zeros(SIZE, dtype=np.uint8)
CROWD[0:20, 0:64] = 1


def images_in(folder: Path, *names: str, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    for number, name in enumerate(names, start=seed):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def read(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def mask_in(folder: Path, name: str) -> NDArray[Any]:
    return read(folder / "SegmentationClass" / f"{name}.png")


def objects_in(folder: Path, name: str) -> NDArray[Any]:
    return read(folder / "SegmentationObject" / f"{name}.png")


def names_on(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().splitlines()


def polygon(points: list[float]) -> NDArray[np.bool_]:
    """Return what pycocotools draws."""
    return np.asarray(coco_mask.decode(coco_mask.frPyObjects([points], *SIZE)))[..., 0].astype(bool)


def uncompressed(bits: NDArray[np.uint8]) -> list[int]:
    """Return run lengths along the columns, counted one by one."""
    counts, value = [0], 0
    for bit in bits.ravel(order="F").tolist():
        if bit != value:
            counts.append(0)
            value = bit
        counts[-1] += 1
    return counts


def coco_file(folder: Path) -> Path:
    """Write four images with all that COCO's instances can be, and return the file."""
    images_in(folder / "images", "a.jpg", "day 1/b.png", "c.jpg", "d.jpg")
    compressed = coco_mask.encode(np.asfortranarray(RING))["counts"].decode()
    shapes: list[tuple[int, int, Any, int]] = [
        (1, 18, [TRIANGLE], 0),
        (1, 3, {"size": list(SIZE), "counts": compressed}, 0),
        (2, 3, [SMALL], 0),
        (2, 18, [BIG], 0),
        (2, 18, {"size": list(SIZE), "counts": uncompressed(CROWD)}, 1),
        (3, 3, [TRIANGLE, [50.0, 30.0, 60.0, 30.0, 60.0, 44.0]], 0),
        (3, 3, [[1.0, 1.0, 2.0, 2.0]], 0),
    ]
    names = ["a.jpg", "day 1/b.png", "c.jpg", "d.jpg"]
    content = {
        "images": [
            {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1], "license": 3}
            for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd}
            for number, (image, category, shape, crowd) in enumerate(shapes)
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


def test_coco_is_drawn_as_pycocotools_does(run: Command, tmp_path: Path) -> None:
    source, output = coco_file(tmp_path), tmp_path / "out"
    result = run(import_labels, "from=coco", f"source={source}", f"output={output}", "val_share=0.25")
    assert result.status == 0, result.error
    assert "not imported: polygons of fewer than three points (1)" in result.output
    assert "3 classes (background, car, dog)" in result.output
    api = COCO(source)
    ids = {"a": 1, "day 1/b": 2, "c": 3, "d": 4}
    for name, number in ids.items():
        annotations = [each for each in api.imgToAnns[number] if each["id"] != 6]  # which has two points
        wanted, objects = np.zeros(SIZE, dtype=np.uint8), np.zeros(SIZE, dtype=int)
        order = sorted(annotations, key=lambda each: (not each["iscrowd"], -int(api.annToMask(each).sum())))
        for place, each in enumerate(order):
            bits = api.annToMask(each).astype(bool)
            wanted[bits] = 255 if each["iscrowd"] else {3: 1, 18: 2}[each["category_id"]]
            objects[bits] = 0 if each["iscrowd"] else place + 1
        assert (mask_in(output, name) == wanted).all()
        found = objects_in(output, name)
        assert len(np.unique(found)) == len(np.unique(objects))
        assert len(np.unique(found + 1000 * objects)) == len(np.unique(objects))  # the same parts
    assert (mask_in(output, "a")[18:22, 28:32] != 1).all()  # the hole
    assert 255 in mask_in(output, "day 1/b")
    assert (mask_in(output, "day 1/b")[12:18, 12:18] == 1).all()  # the smaller one is in front
    assert sorted(names_on(output, "train") + names_on(output, "val")) == sorted(ids)
    assert (read(output / "JPEGImages" / "day 1" / "b.png") == read(tmp_path / "images" / "day 1" / "b.png")).all()
    assert (output / "JPEGImages" / "a.jpg").read_bytes() == (tmp_path / "images" / "a.jpg").read_bytes()


def test_what_is_written_is_checked_and_trained_on(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "my data"
    assert run(import_labels, "from=coco", f"source={coco_file(tmp_path)}", f'output="{output}"').status == 0
    data = f'data="{output / "data.yaml"}"'
    result = run(check_data, data, f"run_dir={tmp_path / 'check'}")
    assert result.status == 0, result.error
    own = [each for each in TINY if not each.startswith(("data=", "data.class_names"))]
    options = ["data.objects=true", "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]
    result = run(train, data, *own, "data.transform.crop_size=32", *options)
    assert result.status == 0, result.error
    assert not list(tmp_path.glob(".segunet-*"))


def test_classes_can_be_chosen_and_lists_given(run: Command, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("c\nday 1/b\n")
    (lists / "val.txt").write_text("a\n")
    options = ["from=coco", f"source={coco_file(tmp_path)}", f"output={tmp_path / 'out'}", f"lists={lists}"]
    result = run(import_labels, *options, "class_names=[other,dog]")
    assert result.status == 0, result.error
    assert "labels of car (3)" in result.output
    assert names_on(tmp_path / "out", "train") == ["c", "day 1/b"]
    assert (mask_in(tmp_path / "out", "a") == polygon(TRIANGLE)).all()
    assert not mask_in(tmp_path / "out", "c").any()
    assert not (tmp_path / "out" / "JPEGImages" / "d.jpg").exists()
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["class_names"] == ["other", "dog"]


def test_two_files_are_the_two_lists(run: Command, tmp_path: Path) -> None:
    first, second = (coco_file(tmp_path / name) for name in ("train", "val"))
    for path in (tmp_path / "val" / "images").rglob("*.*"):
        path.rename(path.with_stem(f"{path.stem}_val"))
    second.write_text(second.read_text().replace(".jpg", "_val.jpg").replace(".png", "_val.png"))
    options = [f"source={first}", f"val_source={second}", f"images={tmp_path / 'train' / 'images'}"]
    options += [f"val_images={tmp_path / 'val' / 'images'}", f"output={tmp_path / 'out'}"]
    assert run(import_labels, "from=coco", *options).status == 0
    assert names_on(tmp_path / "out", "train") == ["a", "day 1/b", "c", "d"]
    assert names_on(tmp_path / "out", "val") == ["a_val", "day 1/b_val", "c_val", "d_val"]


def yolo_folder(folder: Path) -> Path:
    for split, name in (("train", "a"), ("train", "sub/b"), ("val", "c")):
        images_in(folder / "images" / split, f"{name}.jpg")
        (folder / "labels" / split / name).parent.mkdir(parents=True, exist_ok=True)
    shares = [each / (SIZE[1] if index % 2 == 0 else SIZE[0]) for index, each in enumerate(TRIANGLE)]
    text = " ".join(map(str, shares))
    (folder / "labels" / "train" / "a.txt").write_text(f"1 {text}\n\n")
    (folder / "labels" / "val" / "c.txt").write_text(f"0 {text}\n")  # b is without objects
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return folder


def test_yolo_s_own_lists_and_polygons(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run(import_labels, "from=yolo", f"source={yolo_folder(tmp_path / 'yolo')}", f"output={output}")
    assert result.status == 0, result.error
    assert (names_on(output, "train"), names_on(output, "val")) == (["train/a", "train/sub/b"], ["val/c"])
    assert (mask_in(output, "train/a") == 2 * polygon(TRIANGLE)).all()
    assert (mask_in(output, "val/c") == polygon(TRIANGLE)).all()
    assert not mask_in(output, "train/sub/b").any()


def labelme_folder(folder: Path) -> Path:
    images_in(folder, "a.jpg", "b.jpg", "c.png")
    image = Image.fromarray(RING[10:30, 20:40] * 255)
    image.save(buffer := io.BytesIO(), "PNG")
    points = [[TRIANGLE[index], TRIANGLE[index + 1]] for index in (0, 2, 4)]
    shapes: dict[str, list[dict[str, Any]]] = {
        "a": [
            {"label": "cat", "points": points, "shape_type": "polygon", "group_id": None},
            {"label": "dog", "points": [[10, 10], [20, 20]], "shape_type": "rectangle", "group_id": 1},
            {"label": "dog", "points": [[30, 10], [40, 20]], "shape_type": "rectangle", "group_id": 1},
            {"label": "dog", "points": [[1, 1], [5, 5]], "shape_type": "line", "group_id": None},
        ],
        "b": [
            {
                "label": "cat",
                "points": [[20, 10], [39, 29]],
                "shape_type": "mask",
                "mask": base64.b64encode(buffer.getvalue()).decode(),
            },
            {"label": "__ignore__", "points": [[0, 40], [64, 48]], "shape_type": "rectangle"},
        ],
        "c": [{"label": "dog", "points": [[32, 24], [42, 24]], "shape_type": "circle"}],
    }
    for name, each in shapes.items():
        image_path = next(path.name for path in folder.glob(f"{name}.*"))
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": each,
            "imagePath": f".\\{image_path}",
            "imageData": None,
        }
        (folder / f"{name}.json").write_text(json.dumps(content | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}))
    return folder


def test_labelme_s_shapes(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run(import_labels, "from=labelme", f"source={labelme_folder(tmp_path / 'in')}", f"output={output}")
    assert result.status == 0, result.error
    assert "not imported: shapes of type line without an area (1)" in result.output
    wanted = polygon(TRIANGLE).astype(int)
    wanted[10:20, 10:20] = wanted[10:20, 30:40] = 2  # drawn later
    assert (mask_in(output, "a") == wanted).all()
    objects = objects_in(output, "a")
    assert len(np.unique(objects)) == 3  # one group is one object
    assert objects[15, 15] == objects[15, 35] != 0
    wanted = RING.astype(int)
    wanted[40:48] = 255
    assert (mask_in(output, "b") == wanted).all()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    circle = np.hypot(y - 24, x - 32)
    assert (mask_in(output, "c")[circle < 9] == 2).all()
    assert not mask_in(output, "c")[circle > 11].any()


PATCH = np.zeros((12, 20), dtype=np.uint8)  # neither symmetric nor square
PATCH[2:5, 1:18] = PATCH[4:11, 3] = 1


def cvat_folder(folder: Path, subset: str = "") -> Path:
    images_in(folder / "images" / subset, "a.jpg", "b.jpg")
    points = ";".join(f"{TRIANGLE[index]},{TRIANGLE[index + 1]}" for index in (0, 2, 4))
    along_rows = ", ".join(map(str, uncompressed(PATCH.T)))
    of_project = f' subset="{subset}"' if subset else ""
    (folder / "annotations.xml").write_text(f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><job><labels>
    <label><name>dog</name><color>#ff0000</color></label><label><name>cat</name></label>
  </labels></job></meta>
  <image id="0" name="a.jpg"{of_project} width="64" height="48">
    <box label="dog" xtl="10" ytl="10" xbr="20" ybr="20" z_order="1"><attribute name="x">1</attribute></box>
    <polygon label="cat" points="{points}" z_order="0" />
    <polyline label="cat" points="1,1;2,2" z_order="0" />
    <tag label="cat" />
  </image>
  <image id="1" name="b.jpg"{of_project} width="64" height="48">
    <mask label="cat" rle="{along_rows}" left="20" top="-3" width="20" height="12" z_order="0" />
    <ellipse label="dog" cx="50" cy="40" rx="6" ry="4" z_order="0" group_id="7" />
    <box label="dog" xtl="4" ytl="34" xbr="16" ybr="38" rotation="90" group_id="7" />
  </image>
</annotations>
""")
    return folder


@pytest.mark.parametrize("subset", ["", "train"])
def test_cvat_s_shapes(run: Command, tmp_path: Path, subset: str) -> None:
    output = tmp_path / "out"
    options = [f"source={cvat_folder(tmp_path / 'in', subset)}", f"output={output}", "val_share=0.5"]
    result = run(import_labels, "from=cvat", *options)
    assert result.status == 0, result.error
    assert "shapes of type polyline without an area (1), shapes of type tag without an area (1)" in result.output
    names = [f"{subset}/{name}".lstrip("/") for name in "ab"]
    wanted = 2 * polygon(TRIANGLE).astype(int)
    wanted[10:20, 10:20] = 1  # of a higher z_order, though drawn earlier
    assert (mask_in(output, names[0]) == wanted).all()
    mask, objects = mask_in(output, names[1]), objects_in(output, names[1])
    assert (mask[:9, 20:40] == 2 * PATCH[3:]).all()  # what is above the image is cut off
    assert not mask[:20, :20].any()
    assert (mask[40, 50], mask[40, 45], mask[47, 50]) == (1, 1, 0)
    assert (mask[31, 10], mask[41, 10], mask[36, 5]) == (1, 1, 0)  # turned upright
    assert objects[40, 50] == objects[31, 10] != 0  # of one group


def binary_folder(folder: Path) -> Path:
    images_in(folder / "images", "a.jpg", "b.jpg", "c.jpg")
    (folder / "masks").mkdir()
    Image.fromarray(RING * 255).save(folder / "masks" / "a.png")
    Image.fromarray(RING).save(folder / "masks" / "b_mask.png")
    Image.fromarray(np.stack([RING * 255] * 3, axis=2)).save(folder / "masks" / "c_segmentation.jpg", quality=95)
    return folder


def test_masks_of_two_values(run: Command, tmp_path: Path) -> None:
    options = [f"source={binary_folder(tmp_path / 'in')}", f"output={tmp_path / 'out'}"]
    result = run(import_labels, "from=binary", *options, "class_names=[skin,mole]")
    assert result.status == 0, result.error
    for name in "ab":
        assert (mask_in(tmp_path / "out", name) == RING).all()
    assert (mask_in(tmp_path / "out", "c") == RING).mean() > 0.99
    assert not (tmp_path / "out" / "SegmentationObject").exists()


def cityscapes_folder(folder: Path) -> Path:
    for seed, (split, name) in enumerate({"train": "aachen_000000_000019", "val": "ulm_000001_000019"}.items()):
        city = name.partition("_")[0]
        images_in(folder / "leftImg8bit" / split / city, f"{name}_leftImg8bit.png", seed=seed)
        ids = np.full(SIZE, 4, dtype=np.uint8)
        ids[10:40] = 7
        ids[20:30, 10:20] = 26
        ids[:5, :5] = 33
        truth = folder / "gtFine" / split / city
        truth.mkdir(parents=True)
        Image.fromarray(ids).save(truth / f"{name}_gtFine_labelIds.png")
    return folder


def test_cityscapes_ids(run: Command, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = [f"source={cityscapes_folder(tmp_path / 'in')}", f"output={output}"]
    result = run(import_labels, "from=cityscapes_ids", *options)
    assert result.status == 0, result.error
    assert names_on(output, "train") == ["aachen/aachen_000000_000019"]
    assert names_on(output, "val") == ["ulm/ulm_000001_000019"]
    wanted = np.full(SIZE, 255)
    wanted[10:40] = 0
    wanted[20:30, 10:20] = 13
    wanted[:5, :5] = 18
    assert (mask_in(output, "aachen/aachen_000000_000019") == wanted).all()
    data = yaml.safe_load((output / "data.yaml").read_text())
    assert data["class_names"][13] == "car"
    assert data["palette"][13] == [0, 0, 142]
    assert len(data["class_names"]) == 19
    assert run(check_data, f"data={output / 'data.yaml'}", "data.batch_size=1").status == 0


def damaged(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def in_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def test_images_that_are_not_there_can_be_left_out(run: Command, tmp_path: Path) -> None:
    source = coco_file(tmp_path)
    (tmp_path / "images" / "a.jpg").unlink()
    options = ["from=coco", f"source={source}", f"output={tmp_path / 'out'}"]
    result = run(import_labels, *options)
    assert (result.status, "1 of the 4 images that" in result.error) == (1, True)
    assert "skip_missing=true" in result.error
    result = run(import_labels, *options, "skip_missing=true")
    assert result.status == 0, result.error
    assert "images that are not there (1)" in result.output
    assert sorted(names_on(tmp_path / "out", "train") + names_on(tmp_path / "out", "val")) == ["c", "d", "day 1/b"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "cannot be read as COCO's JSON file of instances: No such file"),
        (lambda path: path.write_text("{"), "cannot be read as COCO's JSON file of instances: Invalid JSON"),
        (
            lambda path: path.write_text('{"images": []}'),
            "cannot be read as COCO's JSON file of instances: categories: Field",
        ),
        (lambda path: damaged(path, '"a.jpg"', '"../a.jpg"'), "names the image '../a.jpg', which does not stay within"),
        (lambda path: damaged(path, '"a.jpg"', '"gone.jpg"'), "gone.jpg. Put them there, give their folder"),
        (lambda path: damaged(path, '"a.jpg"', '"c.jpg"'), "are both named c. Each image needs a name of its own"),
        (
            in_json(lambda content: content.update(annotations=content["annotations"][6:])),
            "no label with an area, but 1",
        ),
        (
            in_json(lambda content: content["annotations"][0].update(segmentation=[[0, 0, 64, 48] * 300_000])),
            "a.jpg: a polygon has an outline of 3.84e+07 pixels",
        ),
        (in_json(lambda content: content["annotations"][0].update(image_id=77)), "an annotation of image 77"),
        (in_json(lambda content: content["images"][0].update(height=47)), "its labels are for 64 x 47 pixels"),
        (in_json(lambda content: content["images"][0].update(height=10**9)), "images[0].height must be less than"),
        (
            in_json(lambda content: content["annotations"][4]["segmentation"].update(counts=[3, 5])),
            "b.png: a mask has run lengths of 8 pixels, not of 64 x 48",
        ),
        (
            in_json(lambda content: content["annotations"][4]["segmentation"].update(counts=[2**62, -(2**62), 3072])),
            "a mask has run lengths of 3072 pixels",
        ),
        (
            in_json(lambda content: content["annotations"][1]["segmentation"].update(counts="é")),
            "a.jpg: a mask has compressed run lengths with the invalid character",
        ),
        (
            in_json(lambda content: content["annotations"][1]["segmentation"].update(counts="o" * 100)),
            "a.jpg: a mask has compressed run lengths with the invalid character",
        ),
        (
            in_json(lambda content: content["annotations"][0].update(segmentation=[[0, 0, 1e9, 0, 0, 5]])),
            "a.jpg: a polygon has the coordinate 1e+09, far outside of the image.",
        ),
        (in_json(lambda content: content["categories"][0].update(name="a\nb")), "cannot be written into data.yaml"),
    ],
)
def test_damaged_coco_files_are_refused_and_nothing_is_written(
    run: Command, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(source := coco_file(tmp_path))
    result = run(import_labels, "from=coco", f"source={source}", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert words in result.error
    assert "\n" not in result.error
    assert sorted(path.name for path in tmp_path.iterdir() if path != source) == ["images"]


@pytest.mark.parametrize(
    ("name", "make", "damage", "words"),
    [
        ("yolo", yolo_folder, ("data.yaml", "names: {0: cat, 1: dog}", "names: {1: cat}"), "names must list the class"),
        ("yolo", yolo_folder, ("data.yaml", "train: images/train", "train: nowhere"), "neither a folder nor a list"),
        ("yolo", yolo_folder, ("labels/train/a.txt", "1 ", "2 "), "a.txt, line 1: wanted a class, 0..1, and numbers"),
        ("yolo", yolo_folder, ("labels/train/a.txt", "1 ", "-1 "), "a.txt, line 1: wanted a class"),
        (
            "labelme",
            labelme_folder,
            ("a.json", "a.jpg", "gone.jpg"),
            "gone.jpg. Put them there, give their folder as images=PATH",
        ),
        ("labelme", labelme_folder, ("b.json", '"mask": "', '"mask": "!'), "b.jpg: a mask cannot be read"),
        (
            "labelme",
            labelme_folder,
            ("a.json", '"shapes"', '"forms"'),
            "cannot be read as a file of labelme: shapes: Field required",
        ),
        ("cvat", cvat_folder, ("annotations.xml", "<annotations>", "<!DOCTYPE a><annotations>"), "declares a document"),
        ("cvat", cvat_folder, ("annotations.xml", "</annotations>", ""), "is no XML file"),
        ("cvat", cvat_folder, ("annotations.xml", 'left="20"', 'left="inf"'), "a number that is not finite"),
        ("yolo", yolo_folder, ("data.yaml", "names: {0: cat, 1: dog}", "names: {0: cat, a: dog}"), "is not YOLO's"),
        ("yolo", yolo_folder, ("data.yaml", "path: .", "path: " + "[" * 5000), "is no YAML file"),
        (
            "cvat",
            cvat_folder,
            ("annotations.xml", 'width="20"', 'width="90000000"'),
            "x 12 pixels is larger than the image",
        ),
        ("cvat", cvat_folder, ("annotations.xml", "image", "track"), "has no images. Export the task or project as"),
        ("cvat", cvat_folder, ("annotations.xml", 'name="a.jpg"', 'name="/etc/a.jpg"'), "does not stay within"),
    ],
)
def test_damaged_files_of_other_formats_are_refused(
    run: Command,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], Path],
    damage: tuple[str, str, str],
    words: str,
) -> None:
    source = make(tmp_path / "in")
    damaged(source / damage[0], *damage[1:])
    result = run(import_labels, f"from={name}", f"source={source}", f"output={tmp_path / 'out'}")
    assert result.status == 1
    assert words in result.error, result.error
    assert not (tmp_path / "out").exists()


def test_boxes_are_left_out_and_are_not_enough(run: Command, tmp_path: Path) -> None:
    source, box = yolo_folder(tmp_path / "in"), "0 0.5 0.5 0.2 0.2\n"
    labels = source / "labels" / "train" / "a.txt"
    labels.write_text(labels.read_text() + box)
    result = run(import_labels, "from=yolo", f"source={source}", f"output={tmp_path / 'out'}")
    assert "not imported: boxes (1)" in result.output
    for path in (source / "labels").rglob("*.txt"):
        path.write_text(box)
    result = run(import_labels, "from=yolo", f"source={source}", f"output={tmp_path / 'none'}")
    assert "no label with an area, but 2 boxes. Are these labels for segmentation?" in result.error


def test_yolo_s_other_ways_to_say_where_the_images_are(run: Command, tmp_path: Path) -> None:
    source = yolo_folder(tmp_path / "in")
    wanted = mask_in_of(run, source, tmp_path / "first", "train/a")
    for name in ("images", "labels"):  # as some exports have it: train/images, and ../train/images in the file
        for split in ("train", "val"):
            (source / split).mkdir(exist_ok=True)
            (source / name / split).rename(source / split / name)
    (source / "data.yaml").write_text("train: ../train/images\nvalidation: ../val/images\nnames: [cat, dog]\n")
    assert (mask_in_of(run, source, tmp_path / "second", "train/images/a") == wanted).all()
    (source / "train" / "list.txt").write_text("./images/a.jpg\n./images/sub/b.jpg\n")
    (source / "data.yaml").write_text("train: train/list.txt\nval: [val/images]\nnames: [cat, dog]\n")
    assert (mask_in_of(run, source, tmp_path / "third", "train/images/a") == wanted).all()
    (source / "train" / "list.txt").write_text("./images/a.jpg\n./images/a.jpg\n")
    result = run(import_labels, "from=yolo", f"source={source}", f"output={tmp_path / 'twice'}")
    assert "are both named train/images/a" in result.error
    for path in source.rglob("*.txt"):
        if path.name != "list.txt":
            path.unlink()
    result = run(import_labels, "from=yolo", f"source={source}", f"output={tmp_path / 'none'}")
    assert "none of its 3 images has a file of labels, such as" in result.error


def mask_in_of(run: Command, source: Path, output: Path, name: str) -> NDArray[Any]:
    result = run(import_labels, "from=yolo", f"source={source}", f"output={output}")
    assert result.status == 0, result.error
    return mask_in(output, name)


def test_two_sources_may_have_different_classes(run: Command, tmp_path: Path) -> None:
    train_folder, val_folder = labelme_folder(tmp_path / "train"), labelme_folder(tmp_path / "val")
    for name in "ab":
        damaged(val_folder / f"{name}.json", '"cat"', '"bird"')
    for path in [*val_folder.glob("*.jpg"), *val_folder.glob("*.png")]:
        damaged(path.with_suffix(".json"), path.name, f"val_{path.name}")
        path.rename(path.with_name(f"val_{path.name}"))
    options = [f"source={train_folder}", f"val_source={val_folder}"]
    result = run(import_labels, "from=labelme", *options, f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert "4 classes (background, cat, dog, bird)" in result.output
    assert set(np.unique(mask_in(tmp_path / "out", "val_b"))) == {0, 3, 255}
    result = run(import_labels, "from=labelme", *options, f"output={tmp_path / 'two'}", "class_names=[none,bird,cat]")
    assert result.status == 0, result.error
    assert set(np.unique(mask_in(tmp_path / "two", "b"))) == {0, 2, 255}
    assert set(np.unique(mask_in(tmp_path / "two", "val_b"))) == {0, 1, 255}


def test_many_objects_are_numbered_in_16_bits(run: Command, tmp_path: Path) -> None:
    images_in(tmp_path / "in", "a.png", "b.png", size=(100, 100))
    squares = [[[x, y], [x + 4, y + 4]] for x in range(0, 100, 5) for y in range(0, 100, 5)]
    shapes = [{"label": "cell", "points": points, "shape_type": "rectangle"} for points in squares]
    for name in "ab":
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imagePath": f"{name}.png"}))
    assert run(import_labels, "from=labelme", f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}").status == 0
    objects = objects_in(tmp_path / "out", "a")
    assert objects.dtype == np.uint16
    assert len(np.unique(objects)) == 401
    options = ["data.batch_size=1", "data.objects=true", f"run_dir={tmp_path / 'check'}"]
    assert run(check_data, f"data={tmp_path / 'out' / 'data.yaml'}", *options).status == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 2], ""),
        ([0, 40], ""),
        ([100, 200], ""),
        ([0, 60_000], ""),
        ([1, 2, 3], "has the values 1, 2, 3, wanted two"),
        ([*range(0, 250, 10)], ""),
    ],
)
def test_the_larger_value_is_the_object(run: Command, tmp_path: Path, values: list[int], words: str) -> None:
    images_in(tmp_path / "in" / "images", "a.jpg", "b.jpg")
    (tmp_path / "in" / "masks").mkdir()
    stored: NDArray[Any] = np.resize(np.array(values), SIZE).astype(np.uint16 if max(values) > 255 else np.uint8)
    for name in "ab":
        Image.fromarray(stored).save(tmp_path / "in" / "masks" / f"{name}.png")
    result = run(import_labels, "from=binary", f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}")
    assert words in result.error
    if not words:
        assert (mask_in(tmp_path / "out", "a") == (stored > (min(values) if len(values) == 2 else 120))).all()


def test_images_and_masks_in_one_folder(run: Command, tmp_path: Path) -> None:
    images_in(tmp_path / "in", "a.jpg", "b.jpg", ".hidden/c.jpg")
    for name in "ab":
        Image.fromarray(RING * 255).save(tmp_path / "in" / f"{name}_mask.png")
    folder = tmp_path / "in"
    result = run(import_labels, "from=binary", f"source={folder}", f"images={folder}", f"output={tmp_path / 'out'}")
    assert result.status == 0, result.error
    assert sorted(names_on(tmp_path / "out", "train") + names_on(tmp_path / "out", "val")) == ["a", "b"]
    assert (mask_in(tmp_path / "out", "a") == RING).all()


def test_the_output_can_be_a_link_and_an_image_turned_by_exif(run: Command, tmp_path: Path) -> None:
    source = binary_folder(tmp_path / "in")
    exif = Image.Exif()
    exif[0x0112] = 6  # as many cameras hold it
    with Image.open(source / "images" / "a.jpg") as image:
        image.rotate(90, expand=True).save(source / "images" / "a.jpg", exif=exif)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    result = run(import_labels, "from=binary", f"source={source}", f"output={tmp_path / 'link'}")
    assert result.status == 0, result.error
    assert (mask_in(tmp_path / "there", "a") == RING).all()
    assert run(check_data, f"data={tmp_path / 'there' / 'data.yaml'}", "data.batch_size=1").status == 0


def test_wrong_settings_are_refused(run: Command, tmp_path: Path) -> None:
    source, output = binary_folder(tmp_path / "in"), tmp_path / "out"
    binary, coco = ["from=binary", f"source={source}"], ["from=coco", f"source={coco_file(tmp_path)}"]
    for given, words in (
        ([], "Give from=coco"),
        (["from=binary"], "Give source=PATH"),
        (binary, "Give output=DIR"),
        (["from=voc", f"source={source}", f"output={output}"], "from=voc is none of coco, yolo, labelme"),
        ([*binary, f"output={source}"], "exists. Give another folder"),
        (["from=binary", f"source={output}", f"output={output}"], "holds no images"),
        ([*binary, f"output={output}", "class_names=[a]"], "class_names must be two names"),
        ([*binary, f"output={output}", "val_share=1"], "val_share must be less than 1"),
        ([*binary, f"output={output}", f"lists={tmp_path}"], "has no train.txt"),
        ([*binary, f"output={output}", "val_images=x"], "Give val_source, too"),
        ([*coco, f"output={output}", "class_names=[a,bird]"], "There are no labels of bird. Those there are: car, dog"),
        ([*coco, f"output={output}", "class_names=[]"], "class_names must have at least 1 item"),
        ([*coco, f"output={output}", "class_names=[car,dog]"], "the first, car, is that of pixels without a label"),
    ):
        result = run(import_labels, *given)
        assert result.status == 1, given
        assert words.replace("There are no", "there are no") in result.error, result.error
        assert not output.exists()


def test_an_image_without_its_mask_is_named(run: Command, tmp_path: Path) -> None:
    source = binary_folder(tmp_path / "in")
    (source / "masks" / "a.png").unlink()
    result = run(import_labels, "from=binary", f"source={source}", f"output={tmp_path / 'out'}")
    assert "The image a has no mask in" in result.error
