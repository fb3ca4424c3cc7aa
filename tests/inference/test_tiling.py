"""Tiles against the whole image, and where they lie."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from segunet.inference.logits import predict
from segunet.inference.tiling import predict_rows, tile_starts
from segunet.models.classic_unet import ClassicUNet


class Brightness(nn.Module):
    """Logits that depend on each pixel alone, so that tiles and whole image must agree: class 0, 1 or 2."""

    def forward(self, images: Tensor) -> Tensor:
        centres = torch.tensor([40.0, 128.0, 215.0]).view(1, 3, 1, 1)
        return -(images.float().mean(dim=1, keepdim=True) - centres).abs()


class Position(nn.Module):
    """Class 1 in the tile's left half, class 0 in its right: the worst that an edge can do."""

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.linspace(4, -4, images.shape[-1]).expand(len(images), 1, *images.shape[-2:])
        return torch.cat([torch.zeros_like(ramp), ramp], dim=1)


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(64, 64), (100, 70), (33, 257), (1, 1), (5, 200)])
@pytest.mark.parametrize(("tile", "overlap"), [(32, 0.25), (50, 0.0), (31, 0.9), (512, 0.5), (1, 0.0)])
def test_tiles_of_a_net_without_surroundings_are_the_whole_image(
    size: tuple[int, int], tile: int, overlap: float
) -> None:
    if tile == 1 and size[0] * size[1] > 100:
        size = (9, 8)
    image = random_image(*size)
    rows = list(predict_rows(Brightness(), image, tile, overlap))
    assert torch.equal(torch.cat(rows), predict(Brightness(), image[None], size)[0])
    assert all(len(each) <= tile for each in rows)


def test_views_of_tiles_are_views_of_the_image() -> None:
    image = random_image(90, 60)
    whole = predict(Brightness(), image[None], (90, 60), "flip")[0]
    assert torch.equal(torch.cat(list(predict_rows(Brightness(), image, 32, 0.25, "flip"))), whole)


def test_a_seam_is_blended_the_middle_of_a_tile_counts_most() -> None:
    # Two tiles of 64 that share columns 36..63. Alone the left one says 1 up to column 31, the right one from 36 to 67.
    row = torch.cat(list(predict_rows(Position(), random_image(64, 100), 64, 0.25)))[30].tolist()
    changes = [column for column in range(1, 100) if row[column] != row[column - 1]]
    assert row[0] == 1
    assert row[99] == 0
    assert changes[0] == 32
    assert 36 < changes[1] < 64  # not where the right tile begins, nor where the left one ends: in between
    assert changes[2] == 68


@pytest.mark.parametrize("length", [1, 10, 64, 65, 100, 1000])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_tiles_cover_a_side_with_the_overlap_and_stay_inside(length: int, overlap: float) -> None:
    starts = tile_starts(length, 64, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(length - 64, 0)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < step <= 64 * (1 - overlap) + 0.5 for step in steps)


def test_tiles_of_an_unpadded_network_are_the_whole_image() -> None:
    torch.manual_seed(0)
    net = ClassicUNet(3, mean=[127.5], std=[127.5], widths=(2, 4, 8, 16, 32)).double().eval()
    for size, tile in (((300, 210), 64), ((260, 333), 100), ((120, 400), 32)):
        image = random_image(*size)
        with torch.no_grad():
            whole = predict(net, image[None], size)[0]
            assert torch.equal(torch.cat(list(predict_rows(net, image, tile, 0.25))), whole), (size, tile)
        assert len(set(whole.flatten().tolist())) > 1
