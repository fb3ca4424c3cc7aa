"""Reading a VOC folder: lists, images of every mode, masks of every kind, and what is refused."""

import io
import re
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from segunet.base.errors import UserError
from segunet.data.masks import MaskFormat, count_values, enet_weights, read_mask
from segunet.data.voc import Pair, find_voc_folder, list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import as_rgb, first_to_lose_levels, opened, read_image, read_size

Pixels = NDArray[np.uint8]

VOC = MaskFormat(21, IGNORE_INDEX, voc_palette())
THREE = MaskFormat(3, IGNORE_INDEX, voc_palette())


def colours(height: int = 24, width: int = 40, seed: int = 0) -> Pixels:
    """A smooth image (H, W, 3), different in its four corners, that JPEG keeps to a few levels."""
    corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR))


def indices(*values: int, height: int = 24, width: int = 40) -> Pixels:
    """A mask (H, W) that takes the values in turn."""
    return np.resize(np.array(values, dtype=np.uint8), (height, width))


def save_mask(path: Path, mask: NDArray[np.integer]) -> Path:
    """Save as VOC does: an index PNG with the palette."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    image.save(path)
    return path


# --- lists ---


@pytest.mark.parametrize("below", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_folder_is_found_below_three_roots(tmp_path: Path, below: str) -> None:
    (tmp_path / below / "ImageSets" / "Segmentation").mkdir(parents=True)
    assert find_voc_folder(tmp_path) == tmp_path / below


def test_a_root_without_lists_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"data\.root is {tmp_path}, which has no ImageSets/Segmentation"):
        find_voc_folder(tmp_path)
    with pytest.raises(UserError, match=rf"data\.root is {tmp_path}/nowhere, which does not exist"):
        find_voc_folder(tmp_path / "nowhere")


def test_the_pairs_are_in_the_list_s_order(voc_folder: Path) -> None:
    names = ["train_3", "train_0", "train_5"]
    (voc_folder / "ImageSets/Segmentation/some.txt").write_text("\n".join(names))
    pairs = list_pairs(voc_folder, "some")
    assert pairs == [
        Pair(name, voc_folder / f"JPEGImages/{name}.jpg", voc_folder / f"SegmentationClass/{name}.png")
        for name in names
    ]


def test_blank_lines_and_line_ends_of_windows_do_not_matter(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/some.txt").write_bytes(b"train_3\r\n\r\n  train_0 \r\n")
    assert [pair.name for pair in list_pairs(voc_folder, "some")] == ["train_3", "train_0"]


def test_images_of_every_suffix_are_found_in_small_and_in_capital_letters(voc_folder: Path) -> None:
    image = voc_folder / "JPEGImages" / "val_0.jpg"
    for suffix in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"):
        for spelt in (suffix, suffix.upper()):
            image = image.rename(image.with_suffix(spelt))
            assert list_pairs(voc_folder, "val")[0].image == image


def test_trainaug_takes_its_masks_from_the_other_folder(voc_folder: Path) -> None:
    (voc_folder / "SegmentationClass").rename(voc_folder / "SegmentationClassAug")
    (voc_folder / "ImageSets/Segmentation/val.txt").rename(voc_folder / "ImageSets/Segmentation/trainaug.txt")
    assert list_pairs(voc_folder, "trainaug")[0].mask == voc_folder / "SegmentationClassAug" / "val_0.png"


def test_a_missing_list_is_refused_with_those_that_are_there(voc_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no list .*/unknown\.txt\. Lists there: train, val\."):
        list_pairs(voc_folder, "unknown")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_refused(voc_folder: Path, text: str) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(UserError, match=r"/val\.txt is empty"):
        list_pairs(voc_folder, "val")


def test_a_name_twice_is_refused(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_text("val_0\nval_1\nval_2\nval_1\n")
    with pytest.raises(UserError, match=r"/val\.txt names 'val_1' more than once"):
        list_pairs(voc_folder, "val")


@pytest.mark.parametrize(("kind", "file"), [("image", "JPEGImages/val_2.jpg"), ("mask", "SegmentationClass/val_2.png")])
def test_a_missing_file_is_refused_by_name(voc_folder: Path, kind: str, file: str) -> None:
    (voc_folder / file).unlink()
    with pytest.raises(UserError, match=rf"/val\.txt names 4 examples, but 1 .* no {kind}; .* {voc_folder}/{file}"):
        list_pairs(voc_folder, "val")


def test_a_list_that_is_no_text_is_refused_by_name(voc_folder: Path) -> None:
    (voc_folder / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfev\x00a\x00l\x00")
    with pytest.raises(UserError, match=r"/val\.txt"):
        list_pairs(voc_folder, "val")


def test_names_that_leave_the_folder_are_refused(voc_folder: Path) -> None:
    for name in ("/etc/x", "../x", "a/../../x", "..", ".", "a//b", "a/", "./a", "a\\b", "a\0b"):
        (voc_folder / "ImageSets/Segmentation/val.txt").write_text(f"val_0\n{name}\n")
        with pytest.raises(UserError, match=rf"/val\.txt names {re.escape(repr(name))}, which does not stay within"):
            list_pairs(voc_folder, "val")


# --- images ---


def assert_reads_as(path: Path, wanted: Pixels, tolerance: int = 0) -> None:
    got = read_image(path)
    assert got.dtype == np.uint8
    assert got.shape == wanted.shape
    assert abs(got.astype(int) - wanted).max() <= tolerance
    assert read_size(path) == got.shape[:2]


def test_rgb_images(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "rgb.png")
    assert_reads_as(tmp_path / "rgb.png", colours())
    Image.fromarray(colours()).save(tmp_path / "rgb.jpg", quality=100, subsampling=0)
    assert_reads_as(tmp_path / "rgb.jpg", colours(), tolerance=4)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_grey_becomes_three_equal_channels(tmp_path: Path, suffix: str) -> None:
    grey = colours()[..., 0]
    Image.fromarray(grey).save(tmp_path / f"grey{suffix}")
    with Image.open(tmp_path / f"grey{suffix}") as image:
        assert image.mode == "L"
    assert_reads_as(tmp_path / f"grey{suffix}", np.repeat(grey[..., None], 3, axis=2), tolerance=4)


def test_cmyk_jpeg_becomes_its_colours(tmp_path: Path) -> None:
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    with Image.open(tmp_path / "cmyk.jpg") as image:
        assert image.mode == "CMYK"
    assert_reads_as(tmp_path / "cmyk.jpg", colours(), tolerance=6)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.resize(np.arange(256, dtype=np.uint8), (24, 40, 1))
    Image.fromarray(np.concatenate([colours(), alpha], axis=2)).save(tmp_path / "rgba.png")
    assert_reads_as(tmp_path / "rgba.png", colours())
    grey = colours()[..., :1]
    Image.fromarray(np.concatenate([grey, alpha], axis=2), mode=None).save(tmp_path / "la.png")
    assert_reads_as(tmp_path / "la.png", np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_images_become_their_colours(tmp_path: Path, transparent: bool) -> None:
    mask = indices(0, 1, 15, 255)
    image = Image.fromarray(mask)
    image.putpalette(voc_palette().tobytes())
    if transparent:
        image.info["transparency"] = bytes(range(256))
    image.save(tmp_path / "palette.png")
    assert_reads_as(tmp_path / "palette.png", voc_palette()[mask])


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    bits = indices(0, 1, 1).astype(bool)
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert_reads_as(tmp_path / "bits.png", np.repeat(np.uint8(255) * bits[..., None], 3, axis=2))


def save_sixteen_bits(path: Path, values: NDArray[np.uint16]) -> Path:
    """Save (H, W) or (H, W, 3) RGB by OpenCV: Pillow cannot write 16-bit colours."""
    assert cv2.imwrite(str(path), values if values.ndim == 2 else values[..., ::-1])
    return path


def test_sixteen_bits_become_eight_by_the_range(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (24, 40, 3)).astype(np.uint16)
    for suffix in (".png", ".tif"):
        for values in (deep, deep[..., 0]):
            path = save_sixteen_bits(tmp_path / f"deep{suffix}", values)
            for low, high, given in ((0, 65535, None), (0, 4095, (0, 4095)), (1000, 60000, [1000, 60000])):
                wanted = ((values.astype(float) - low) / (high - low) * 255).clip(0, 255)
                got = read_image(path, given)
                assert got.dtype == np.uint8
                assert abs(got - (wanted if values.ndim == 3 else wanted[..., None])).max() <= 1
                assert read_size(path) == got.shape[:2]
    Image.fromarray(colours()).save(tmp_path / "eight.png")
    np.testing.assert_array_equal(read_image(tmp_path / "eight.png", (0, 4095)), colours())


def test_levels_that_are_lost_are_noticed(tmp_path: Path) -> None:
    twelve_bits = np.linspace(900, 1400, 24 * 40).astype(np.uint16).reshape(24, 40)
    for values, image_range, lost in (
        (twelve_bits, None, True),
        (twelve_bits, (0, 4095), False),
        (twelve_bits * 40, None, False),
        (twelve_bits // 100, None, False),  # has no more
        (np.stack([twelve_bits] * 3, axis=2), None, True),
    ):
        pair = Pair("a", save_sixteen_bits(tmp_path / "deep.png", values), tmp_path)
        assert first_to_lose_levels([pair.image], image_range) == (pair.image if lost else None)
    Image.fromarray(colours() // 100).save(tmp_path / "eight.png")
    assert first_to_lose_levels([tmp_path / "eight.png"], None) is None


def test_stacks_and_other_bands_are_refused_with_their_number(tmp_path: Path) -> None:
    pages = [Image.fromarray(colours(seed=seed)) for seed in range(3)]
    for name in ("stack.tif", "stack.webp", "stack.gif", "stack.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        for kind in ("image", "mask"):
            with (
                pytest.raises(UserError, match=rf"{name} holds 3 pages or frames, wanted a single image"),
                opened(tmp_path / name, kind),
            ):
                pass
    for bands in (2, 4, 13):
        tiff = {256: 8, 257: 8, 258: (8,) * bands, 262: 2 if bands == 4 else 1, 273: 8, 277: bands, 278: 8}
        ifd: Any = ImageFileDirectory_v2(b"II*\0\0\0\0\0")
        for tag, value in (tiff | {279: 64 * bands, 338: (0,) * (bands - (3 if bands == 4 else 1))}).items():
            ifd[tag] = value
        pixels = bytes(64 * bands)
        directory = ifd.tobytes(8 + len(pixels))
        (tmp_path / "bands.tif").write_bytes(struct.pack("<4sI", b"II*\0", 8 + len(pixels)) + pixels + directory)
        with pytest.raises(UserError, match=rf"bands\.tif has {bands} bands, wanted grey or RGB"):
            read_image(tmp_path / "bands.tif")


def test_the_smaller_copies_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    smaller: Any = ImageFileDirectory_v2()
    smaller[254] = 1
    half = Image.fromarray(colours()).resize((20, 12))
    half.encoderinfo = {"tiffinfo": smaller}
    Image.fromarray(colours()).save(tmp_path / "pyramid.tif", save_all=True, append_images=[half])
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif"), colours())


# What undoes each EXIF orientation: the transposition of the stored image that shows it upright.
UPRIGHT = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_are_upright_whatever_their_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = Image.fromarray(colours())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored.save(tmp_path / f"turned{suffix}", exif=exif, quality=100)
    operation = UPRIGHT[orientation]
    upright = stored if operation is None else stored.transpose(operation)
    assert_reads_as(tmp_path / f"turned{suffix}", np.asarray(upright), tolerance=0 if suffix == ".png" else 12)


@pytest.mark.parametrize("turned", range(2, 9))
def test_a_tiff_that_is_not_loaded_yet_is_turned_once(tmp_path: Path, turned: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    Image.fromarray(colours()).save(tmp_path / "turned.tif", exif=exif)
    with Image.open(tmp_path / "turned.tif") as image:
        got = as_rgb(image, "turned.tif")
    np.testing.assert_array_equal(got, read_image(tmp_path / "turned.tif"))
    np.testing.assert_array_equal(got, np.asarray(Image.fromarray(colours()).transpose(UPRIGHT[turned])))  # type: ignore[arg-type]


def test_a_name_on_a_list_is_a_whole_line(tmp_path: Path) -> None:
    lists = tmp_path / "ImageSets" / "Segmentation"
    for folder in (lists, tmp_path / "JPEGImages", tmp_path / "SegmentationClass"):
        folder.mkdir(parents=True)
    (lists / "val.txt").write_text("an image\r\n\n  b \n")
    for name in ("an image", "b"):
        Image.fromarray(colours()).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(colours()[..., 0]).save(tmp_path / "SegmentationClass" / f"{name}.png")
    assert [pair.name for pair in list_pairs(tmp_path, "val")] == ["an image", "b"]


def test_strange_exif_entries_beside_the_orientation_are_passed_over(tmp_path: Path) -> None:
    make = struct.pack(">HHIf", ExifTags.Base.Make, 11, 1, 1.5)  # a number, where a text belongs
    turn = struct.pack(">HHIHH", ExifTags.Base.Orientation, 3, 1, 6, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + make + turn + bytes(4)
    Image.fromarray(colours()).save(tmp_path / "odd.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png"), np.rot90(colours(), k=-1))


def test_exif_that_readers_disagree_on_is_refused(tmp_path: Path) -> None:
    segments = []
    for turn in (6, 1):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        Image.fromarray(colours()).save(tmp_path / "turned.jpg", exif=exif)
        content = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
        segments.append(b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content)
    data = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "turned.jpg").write_bytes(data[:2] + segments[0] + segments[1] + data[2:])
    for reader in (read_image, read_size):
        with pytest.raises(UserError, match=r"turned\.jpg .*EXIF entries disagree on how it is turned: 1 and 6"):
            reader(tmp_path / "turned.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(indices(0, 1)).save(tmp_path / "mask.png", exif=exif)
    with pytest.raises(UserError, match=r"mask\.png is a mask with the EXIF orientation 3"):
        read_mask(tmp_path / "mask.png", (24, 40), VOC)


def test_exif_behind_the_pixels_of_a_png_counts_and_is_found_without_decoding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    Image.fromarray(colours()).save(tmp_path / "turned.png")
    data = (tmp_path / "turned.png").read_bytes()
    (tmp_path / "turned.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert_reads_as(tmp_path / "turned.png", np.rot90(colours(), -1))


def test_an_exif_orientation_that_means_nothing_is_passed_over(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 77
    Image.fromarray(colours()).save(tmp_path / "odd.png", exif=exif)
    assert_reads_as(tmp_path / "odd.png", colours())


def encoded(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 200)).save(file, form, **options)
    return file.getvalue()


def zeroed(data: bytes, begin: float, end: float) -> bytes:
    first, last = int(len(data) * begin), int(len(data) * end)
    return data[:first] + bytes(last - first) + data[last:]


def test_damage_that_can_be_seen_is_an_error(tmp_path: Path) -> None:
    """Files cut short, with bytes behind their end, with wrong checksums, and with what libjpeg only warns of."""
    forms = {"JPEG": {}, "PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True}, "GIF": {}}
    whole = {form: encoded(form, **options) for form, options in forms.items()}
    whole["progressive JPEG"] = encoded("JPEG", progressive=True)
    damaged = {f"{form} cut to {share}": data[: int(len(data) * share)] for form, data in whole.items() for share in
               (0, 0.2, 0.5, 0.9, 0.999)}  # fmt: skip
    for form in whole.keys() - {"TIFF"}:  # whose parts may lie anywhere
        damaged |= {f"{form} and {rest!r}": whole[form] + rest for rest in (b"\0", b"garbage", whole["PNG"])}
    for form in ("JPEG", "progressive JPEG", "PNG"):
        damaged |= {f"{form} zeroed in the middle": zeroed(whole[form], 0.5, 0.75)}
        damaged |= {f"{form} zeroed to the end": zeroed(whole[form], 0.7, 1)}
    for place in range(8, len(whole["PNG"]), 997):
        flipped = bytes([whole["PNG"][place] ^ 1])
        damaged[f"PNG with another bit at {place}"] = whole["PNG"][:place] + flipped + whole["PNG"][place + 1 :]
    for what, data in damaged.items():
        (tmp_path / "damaged").write_bytes(data)
        with pytest.raises(UserError, match=rf"damaged \({len(data)} bytes\) cannot be read as an image: "):
            pytest.fail(f"{what} was read: {read_image(tmp_path / 'damaged').shape}")
        if "JPEG" not in what:
            with pytest.raises(UserError, match="cannot be read as a mask: "):
                read_mask(tmp_path / "damaged", (200, 320), VOC)
    for data in whole.values():
        (tmp_path / "whole").write_bytes(data)
        assert read_image(tmp_path / "whole").shape == (200, 320, 3)


def test_what_a_phone_writes_behind_a_jpeg_is_passed_over(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.jpg")
    alone, film = read_image(tmp_path / "a.jpg"), b"\0\0\0\x18ftypmp42" + bytes(40)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + film)
    Image.fromarray(colours()).save(tmp_path / "c.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    for name in ("b.jpg", "c.jpg"):
        np.testing.assert_array_equal(read_image(tmp_path / name), alone)


@pytest.mark.parametrize("reader", [read_image, read_size])
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0" + bytes(64)])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, reader: type, content: bytes) -> None:
    (tmp_path / "text.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"text\.jpg \({len(content)} bytes\) cannot be read as an image"):
        reader(tmp_path / "text.jpg")


@pytest.mark.parametrize("reader", [read_image, read_size])
def test_an_image_that_is_not_there_is_refused_by_name(tmp_path: Path, reader: type) -> None:
    with pytest.raises(UserError, match=r"There is no image .*gone\.jpg\."):
        reader(tmp_path / "gone.jpg")


def test_an_image_is_refused_by_its_head_before_it_takes_memory(tmp_path: Path) -> None:
    """What is within the limit is read without Pillow's warning, whose own limit stays the program's."""
    for side, fits in ((10_000, True), (30_000, False)):
        Image.new("1", (side, side)).save(tmp_path / "large.png")
        for reader in (read_size, lambda path: opened(path, "image").__enter__()):
            if fits:
                reader(tmp_path / "large.png")
                continue
            tracemalloc.start()
            with pytest.raises(UserError, match=r"large\.png is 30000 x 30000 pixels.* most 536,870,912.*Cut it"):
                reader(tmp_path / "large.png")
            assert tracemalloc.get_traced_memory()[1] < 2e6
            tracemalloc.stop()
    assert Image.MAX_IMAGE_PIXELS == 1024**3 // 4 // 3


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_modes_without_a_plain_reading_are_refused_by_name(tmp_path: Path, mode: str, dtype: type) -> None:
    # A TIFF may come under any of the suffixes: Pillow goes by the content.
    Image.fromarray(np.full((8, 8), 1000, dtype=dtype)).save(tmp_path / "deep.tif")
    (tmp_path / "deep.tif").rename(tmp_path / "deep.png")
    with pytest.raises(UserError, match=rf"deep\.png is an image of mode {mode}, .* wanted 8 or 16 bits a channel"):
        read_image(tmp_path / "deep.png")


# --- masks ---


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_mask_s_values_are_its_indices_not_its_colours(tmp_path: Path, mode: str) -> None:
    mask = indices(0, 15, 20, 255)
    if mode == "P":
        save_mask(tmp_path / "mask.png", mask)
    else:
        Image.fromarray(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == mode
        if mode == "P":  # the usual mistake
            assert set(np.unique(np.asarray(image.convert("L")))) & {147, 220} == {147, 220}
    got = read_mask(tmp_path / "mask.png", (24, 40), VOC)
    assert got.dtype == np.uint8
    assert (got == mask).all()


def test_a_palette_of_few_colours_is_read_too(tmp_path: Path) -> None:
    image = Image.fromarray(indices(0, 1, 2))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "mask.png", bits=2)
    assert (read_mask(tmp_path / "mask.png", (24, 40), THREE) == indices(0, 1, 2)).all()


def test_a_one_bit_mask_is_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(indices(0, 1, 1).astype(bool)).save(tmp_path / "mask.png")
    got = read_mask(tmp_path / "mask.png", (24, 40), THREE)
    assert got.dtype == np.uint8
    assert (got == indices(0, 1, 1)).all()


def test_a_sixteen_bit_mask_holds_indices(tmp_path: Path) -> None:
    Image.fromarray(indices(0, 2, 255).astype(np.uint16)).save(tmp_path / "mask.png")
    got = read_mask(tmp_path / "mask.png", (24, 40), THREE)
    assert got.dtype == np.uint8
    assert (got == indices(0, 2, 255)).all()


@pytest.mark.parametrize("value", [256, 257, 511, 65535])
def test_a_sixteen_bit_value_that_is_no_class_is_refused(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=rf"mask\.png has values that are no class: {value} \(64 pixels\)"):
        read_mask(tmp_path / "mask.png", (8, 8), THREE)


def test_a_negative_value_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), -1, dtype=np.int32)).save(tmp_path / "mask.tif")
    (tmp_path / "mask.tif").rename(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"no class: -1 \(64 pixels\)"):
        read_mask(tmp_path / "mask.png", (8, 8), THREE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_mask_is_read_by_the_palette(tmp_path: Path, mode: str) -> None:
    mask = indices(0, 1, 15, 20, 255)
    Image.fromarray(voc_palette()[mask]).convert(mode).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png", (24, 40), VOC) == mask).all()


def test_a_colour_mask_is_read_by_the_data_set_s_own_palette(tmp_path: Path) -> None:
    palette = voc_palette()
    palette[:3] = [[9, 9, 9], [200, 100, 50], [50, 100, 200]]
    mask = indices(2, 1, 0, 255)
    Image.fromarray(palette[mask]).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png", (24, 40), MaskFormat(3, IGNORE_INDEX, palette)) == mask).all()


def test_an_unknown_colour_is_refused_with_its_count(tmp_path: Path) -> None:
    image = voc_palette()[indices(0, 1)]
    image[3, 5:9] = (1, 2, 3)
    Image.fromarray(image).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png .* 1 colours .* \(1, 2, 3\) in 4 pixels.*data\.palette"):
        read_mask(tmp_path / "mask.png", (24, 40), VOC)


def test_two_classes_of_one_colour_are_refused_where_masks_are_rgb(tmp_path: Path) -> None:
    for colour, words in ((1, "class 1 and class 2"), (255, "class 2 and 'ignore'")):
        palette = voc_palette()
        palette[2] = palette[colour]
        form = MaskFormat(3, IGNORE_INDEX, palette)
        Image.fromarray(palette[indices(0, 1, 255)]).save(tmp_path / "mask.png")
        with pytest.raises(UserError, match=rf"mask\.png is an RGB mask, .* {words} have one colour"):
            read_mask(tmp_path / "mask.png", (24, 40), form)
        save_mask(tmp_path / "mask.png", indices(0, 1, 2))
        assert read_mask(tmp_path / "mask.png", (24, 40), form).max() == 2


def test_a_colour_of_a_class_beyond_the_data_set_s_is_refused(tmp_path: Path) -> None:
    Image.fromarray(voc_palette()[indices(0, 1, 15)]).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"\(192, 128, 128\)"):
        read_mask(tmp_path / "mask.png", (24, 40), THREE)


def test_a_mask_of_another_mode_is_refused(tmp_path: Path) -> None:
    grey_alpha = np.zeros((8, 8, 2), dtype=np.uint8)
    Image.fromarray(grey_alpha, mode=None).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png is a mask of mode LA, wanted an index PNG"):
        read_mask(tmp_path / "mask.png", (8, 8), THREE)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", indices(0, 1))
    with pytest.raises(UserError, match=r"mask\.png is 40 x 24 pixels, its image 24 x 40"):
        read_mask(tmp_path / "mask.png", (40, 24), THREE)


def test_values_that_are_no_class_are_refused_with_their_counts(tmp_path: Path) -> None:
    mask = indices(0, 1, 2)
    mask[0, :7], mask[1, :2] = 3, 254
    save_mask(tmp_path / "mask.png", mask)
    with pytest.raises(UserError, match=r"mask\.png has .* 3 \(7 pixels\), 254 \(2 pixels\)\. Wanted 0\.\.2 or 255"):
        read_mask(tmp_path / "mask.png", (24, 40), THREE)


def test_many_wrong_values_are_abbreviated(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", np.arange(60).reshape(6, 10))
    with pytest.raises(UserError, match=r"7 \(1 pixels\) and 52 more values"):
        read_mask(tmp_path / "mask.png", (6, 10), THREE)


def test_0_and_255_are_refused_as_values_where_255_is_not_ignored(tmp_path: Path) -> None:
    save_mask(tmp_path / "mask.png", indices(0, 255))
    with pytest.raises(UserError, match=r"255 \(480 pixels\)\. Wanted 0\.\.1 or 7"):
        read_mask(tmp_path / "mask.png", (24, 40), MaskFormat(2, 7, voc_palette()))


@pytest.mark.parametrize("content", [b"", b"no mask"])
def test_an_unreadable_mask_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mask.png").write_bytes(content)
    with pytest.raises(UserError, match=r"mask\.png .* cannot be read as a mask"):
        read_mask(tmp_path / "mask.png", (8, 8), THREE)


# --- several masks ---


def pairs_of(folder: Path, *masks: Pixels) -> list[Pair]:
    pairs = []
    for number, mask in enumerate(masks):
        pair = Pair(str(number), folder / f"{number}.jpg", folder / f"{number}_mask.png")
        Image.fromarray(np.zeros((*mask.shape, 3), dtype=np.uint8)).save(pair.image)
        save_mask(pair.mask, mask)
        pairs.append(pair)
    return pairs


def test_a_rotated_image_s_mask_has_the_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pair = Pair("turned", tmp_path / "turned.jpg", save_mask(tmp_path / "mask.png", indices(0, 1, height=40, width=24)))
    Image.fromarray(colours()).save(pair.image, exif=exif)
    assert count_values(read_mask(pair.mask, read_size(pair.image), THREE))[:3].tolist() == [480, 480, 0]


def test_the_ignored_index_may_be_that_of_a_class(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).save(path)
    assert read_mask(path, (1, 3), MaskFormat(3, 0, voc_palette())).tolist() == [[0, 1, 2]]


def test_an_ignored_class_has_no_weight_and_no_share_of_the_pixels() -> None:
    wanted = [0, 1 / np.log(1.02 + 0.3), 1 / np.log(1.02 + 0.7)]
    assert enet_weights(np.array([900, 30, 70]), ignore_index=0) == pytest.approx(wanted, abs=1e-4)
    assert enet_weights(np.array([30, 70]), ignore_index=255) == pytest.approx(wanted[1:], abs=1e-4)
