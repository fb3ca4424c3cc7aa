"""Images of every mode, and what is refused."""

import io
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
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.voc import Pair
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import as_rgb, first_to_lose_levels, opened, read_image, read_size
from tests.pixels import Pixels, colours, indices

VOC = MaskFormat(21, IGNORE_INDEX, voc_palette())


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
        with pytest.raises(UserError, match=r"turned\.jpg .*EXIF entries disagree on the orientation: 1 and 6"):
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
    with pytest.raises(UserError, match=rf"deep\.png is an image of mode {mode}, .* wanted 8 or 16 bits per channel"):
        read_image(tmp_path / "deep.png")


def test_the_largest_size_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    for most, message in (
        ("199", r"a\.png is 20 x 10 pixels, 200; at most 199.*SEGUNET_MAX_PIXELS"),
        ("2e9", "wanted a number"),
    ):
        monkeypatch.setenv("SEGUNET_MAX_PIXELS", most)
        for reader in (read_image, read_size):
            with pytest.raises(UserError, match=message):
                reader(path)
    monkeypatch.setenv("SEGUNET_MAX_PIXELS", "200")
    assert read_image(path).shape == (10, 20, 3)


def test_a_tiff_of_any_orientation_has_the_size_and_the_pixels_that_it_is_read_with(tmp_path: Path) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    deep = grey.astype(np.uint16) * 257
    path = tmp_path / "turned.tif"
    for turned, turn in {1: None, **UPRIGHT}.items():
        for values in (grey, deep, np.repeat(grey[..., None], 3, axis=2)):
            for compression in (None, "tiff_lzw"):
                Image.fromarray(values).save(path, compression=compression, tiffinfo={274: turned})
                upright = Image.fromarray(grey)
                wanted = np.asarray(upright if turn is None else upright.transpose(turn))
                case = (turned, values.dtype, values.ndim, compression)
                assert read_image(path)[..., 0].tolist() == wanted.tolist(), case
                assert read_size(path) == wanted.shape, case
