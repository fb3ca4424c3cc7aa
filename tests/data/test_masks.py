"""Masks of every kind, and what is refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segunet.base.errors import UserError
from segunet.data.masks import MaskFormat, count_values, enet_weights, read_mask
from segunet.data.voc import Pair
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_size
from tests.pixels import colours, indices, save_mask
from tests.rasters import PLACE, write_raster

VOC = MaskFormat(21, IGNORE_INDEX, voc_palette())
THREE = MaskFormat(3, IGNORE_INDEX, voc_palette())


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
    with pytest.raises(UserError, match=rf"mask\.png has values that are not classes: {value} \(64 pixels\)"):
        read_mask(tmp_path / "mask.png", (8, 8), THREE)


def test_a_negative_value_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), -1, dtype=np.int32)).save(tmp_path / "mask.tif")
    (tmp_path / "mask.tif").rename(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"not classes: -1 \(64 pixels\)"):
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
        with pytest.raises(UserError, match=rf"mask\.png is an RGB mask, .* {words} the same colour"):
            read_mask(tmp_path / "mask.png", (24, 40), form)
        save_mask(tmp_path / "mask.png", indices(0, 1, 2))
        assert read_mask(tmp_path / "mask.png", (24, 40), form).max() == 2


def test_a_colour_of_a_class_beyond_the_data_set_s_is_refused(tmp_path: Path) -> None:
    Image.fromarray(voc_palette()[indices(0, 1, 15)]).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"\(192, 128, 128\)"):
        read_mask(tmp_path / "mask.png", (24, 40), THREE)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("compressed", ["none", "lzw", "deflate"])
def test_a_geotiff_of_integers_is_a_mask(tmp_path: Path, kind: str, compressed: str) -> None:
    values = default_rng(0).choice([0, 1, 2, 255], (40, 24)).astype(kind)
    path = write_raster(tmp_path / "mask.tif", values[None], compress=compressed, nodata=0, **PLACE)
    assert read_mask(path, (40, 24), THREE).tolist() == values.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_values_of_few_bits_are_classes(tmp_path: Path, bits: int, suffix: str) -> None:
    values = np.tile(np.arange(2**bits, dtype=np.uint8), (8, 16 // 2**bits))
    path = tmp_path / f"mask{suffix}"
    if suffix == ".tif":
        write_raster(path, values[None], nbits=bits)
    else:
        path.write_bytes(grey_png(values, bits))
    assert read_mask(path, values.shape, VOC).tolist() == values.tolist()


def grey_png(values: NDArray[np.uint8], bits: int) -> bytes:
    """Return a grey PNG of 1, 2 or 4 bits, which Pillow does not write."""
    rows = np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(len(values), -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "bands", "said"),
    [
        ("float32", 1, "has the mode F .32-bit floats., wanted .* a TIFF of one band of integers"),
        ("float64", 1, "of a kind of TIFF that Pillow does not read .*Save it as a PNG"),
        ("int64", 1, "of a kind of TIFF that Pillow does not read .*Save it as a PNG"),
        ("uint8", 2, "has 2 bands"),
        ("uint16", 3, "has 3 bands"),
    ],
)
def test_a_tiff_of_other_values_is_no_mask(tmp_path: Path, kind: str, bands: int, said: str) -> None:
    path = write_raster(tmp_path / "mask.tif", np.ones((bands, 8, 8), dtype=kind))
    with pytest.raises(UserError, match=rf"mask\.tif .*{said}"):
        read_mask(path, (8, 8), THREE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("uint16", {"byteorder": ">"}),
        ("uint8", {"byteorder": ">", "photometric": "miniswhite"}),
        ("uint8", {"byteorder": "<", "photometric": "miniswhite"}),
        ("uint16", {"byteorder": "<", "photometric": "miniswhite"}),
    ],
)
def test_the_order_of_bytes_and_what_is_white_do_not_matter(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    values = default_rng(0).choice([0, 1, 2, 255], (40, 24)).astype(kind)
    tifffile.imwrite(tmp_path / "mask.tif", values, **options)
    assert read_mask(tmp_path / "mask.tif", (40, 24), THREE).tolist() == values.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("black_is", [0, 1])
@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_the_bits_in_a_byte_does_not_matter(tmp_path: Path, bits: int, black_is: int, order: int) -> None:
    values = np.tile(np.arange(2**bits, dtype=np.uint8), (8, 16 // 2**bits))
    (tmp_path / "mask.tif").write_bytes(few_bits_tiff(values, bits, black_is, order))
    assert read_mask(tmp_path / "mask.tif", values.shape, VOC).tolist() == values.tolist()


def few_bits_tiff(values: NDArray[np.uint8], bits: int, photometric: int, fill_order: int) -> bytes:
    """Return a grey TIFF of few bits, uncompressed, as TIFF 6.0 says."""
    rows = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., 8 - bits :].reshape(len(values), -1), axis=-1)
    if fill_order == 2:
        rows = np.packbits(np.unpackbits(rows[..., None], axis=-1)[..., ::-1], axis=-1)
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 266: fill_order}
    tags |= {273: 8, 277: 1, 278: height, 279: rows.nbytes}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, 8 + rows.nbytes)
        + rows.tobytes()
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


def test_a_tiff_that_pillow_misreads_is_refused(tmp_path: Path) -> None:
    values = default_rng(0).choice([0, 1], (40, 24)).astype(">i2")
    tifffile.imwrite(tmp_path / "plain.tif", values, byteorder=">")
    assert read_mask(tmp_path / "plain.tif", (40, 24), THREE).tolist() == values.tolist()
    tifffile.imwrite(tmp_path / "mask.tif", values, byteorder=">", compression="deflate")
    with pytest.raises(UserError, match=r"mask\.tif is a compressed TIFF of signed big-endian integers"):
        read_mask(tmp_path / "mask.tif", (40, 24), THREE)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_which_0_is_white_are_classes_too(tmp_path: Path, bits: int) -> None:
    values = np.tile(np.arange(2**bits, dtype=np.uint8), (8, 16 // 2**bits))
    write_raster(tmp_path / "mask.tif", values[None], nbits=bits, photometric="miniswhite")
    assert read_mask(tmp_path / "mask.tif", values.shape, VOC).tolist() == values.tolist()


def test_a_mask_of_another_mode_is_refused(tmp_path: Path) -> None:
    grey_alpha = np.zeros((8, 8, 2), dtype=np.uint8)
    Image.fromarray(grey_alpha, mode=None).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"mask\.png has the mode LA \(grey and alpha\), wanted an index PNG"):
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
    with pytest.raises(UserError, match=r"7 \(1 pixel\) and 52 more values"):
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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_stored_values_become_classes(tmp_path: Path, dtype: type[np.integer]) -> None:
    stored = np.resize(np.array([0, 7, 255], dtype=dtype), (24, 40))
    path = tmp_path / "mask.png"
    Image.fromarray(stored).save(path, format="TIFF" if dtype == np.int32 else "PNG")
    form = MaskFormat(3, IGNORE_INDEX, voc_palette(), values={0: 255, 7: 0, 255: 2})
    wanted = np.select([stored == 0, stored == 7], [255, 0], 2)
    assert (read_mask(path, (24, 40), form) == wanted).all()
    form = MaskFormat(3, IGNORE_INDEX, voc_palette(), values={0: 0, 255: 1})
    with pytest.raises(
        UserError, match=r"mask\.png has values that data\.mask_values does not have: 7\. Give the class"
    ):
        read_mask(path, (24, 40), form)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_values_below_0_become_classes_too(tmp_path: Path, dtype: type[np.integer]) -> None:
    stored = np.resize(np.array([-1, 0, 7, -32_768], dtype=dtype), (24, 40))
    path = write_raster(tmp_path / "mask.tif", stored[None])
    form = MaskFormat(2, IGNORE_INDEX, voc_palette(), values={-1: 255, -32_768: 255, 0: 0, 7: 1})
    wanted = np.select([stored < 0, stored == 0], [255, 0], 1)
    assert (read_mask(path, (24, 40), form) == wanted).all()


def test_no_data_is_told_how_to_be_ignored(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "mask.tif", np.resize(np.array([-1, 0, 1], dtype=np.int16), (1, 24, 40)))
    with pytest.raises(UserError, match=r"'data\.mask_values=\{-1:255,0:0,1:1\}'"):
        read_mask(path, (24, 40), MaskFormat(2, IGNORE_INDEX, voc_palette()))
    write_raster(path, np.resize(np.array([-(2**31), -1, 0, 1], dtype=np.int32), (1, 24, 40)))
    with pytest.raises(UserError, match=r"'data\.mask_values=\{-1:255,0:0,1:1\}'"):  # what it takes
        read_mask(path, (24, 40), MaskFormat(2, IGNORE_INDEX, voc_palette()))


@pytest.mark.parametrize("value", [-1, -40_000, 70_000])
def test_values_beyond_16_bits_are_refused_too(tmp_path: Path, value: int) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((8, 8), value, dtype=np.int32)).save(path, format="TIFF")
    form = MaskFormat(2, IGNORE_INDEX, voc_palette(), values={0: 0, 1: 1, 65_535: 1})
    with pytest.raises(UserError, match=rf"does not have: {value}\."):
        read_mask(path, (8, 8), form)
