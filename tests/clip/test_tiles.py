"""Tiles cover every pixel of any aspect ratio, and stitched maps are where they belong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from winclip_bench.clip.tiles import cut, resize_mask, resized, stitch, tile_corners

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), stride=st.sampled_from([0.5, 0.8, 1.0]))
def test_tiles_cover_everything_with_steps_no_longer_than_asked(width: int, height: int, stride: float) -> None:
    side = 16
    size = resized(width, height, side, "tile")
    assert min(size) == side
    corners = tile_corners(size, side, stride)
    for axis in (0, 1):
        offsets = sorted({corner[axis] for corner in corners})
        assert offsets[0] == 0
        assert offsets[-1] == size[axis] - side
        assert all(later - earlier <= np.ceil(stride * side) for earlier, later in pairwise(offsets))
    assert len(set(corners)) == len(corners)


SIDES = st.integers(16, 200)
STRIDES = st.sampled_from([0.5, 0.8, 1.0])


@given(longer=SIDES, stride=STRIDES)
def test_tiles_stand_in_order_along_the_longer_side_in_both_directions(longer: int, stride: float) -> None:
    side = 16
    wide, high = tile_corners((side, longer), side, stride), tile_corners((longer, side), side, stride)
    assert [(left, top) for top, left in wide] == list(high)
    assert {top for top, _ in wide} == {0}
    lefts = [left for _, left in wide]
    assert lefts == sorted(lefts)
    assert len(lefts) == 1 + np.ceil((longer - side) / (stride * side))  # no fewer can do
    if lefts[1:]:  # and they stand evenly
        steps = np.diff(lefts)
        assert steps.max() - steps.min() <= 1


@given(st.integers(1, 60), STRIDES)
def test_a_square_image_is_its_own_tile(side: int, stride: float) -> None:
    assert resized(side, side, 40, "tile") == (40, 40)
    assert tile_corners((40, 40), 40, stride) == ((0, 0),)
    maps = torch.rand(1, 40, 40)
    assert torch.equal(stitch(maps, ((0, 0),), (40, 40)), maps[0])


@given(height=SIDES, width=SIDES, stride=STRIDES, seed=st.integers(0, 99))
@settings(deadline=None)
def test_stitched_pixels_are_the_mean_of_the_tiles_over_them(height: int, width: int, stride: float, seed: int) -> None:
    side = 16
    size = resized(width, height, side, "tile")
    corners = tile_corners(size, side, stride)
    maps = torch.rand(len(corners), side, side, generator=torch.Generator().manual_seed(seed))
    stitched = stitch(maps, corners, size)
    assert stitched.shape == size
    row, column = (
        int(torch.randint(0, length, (1,), generator=torch.Generator().manual_seed(seed))) for length in size
    )
    over = [
        float(tile[row - top, column - left])
        for tile, (top, left) in zip(maps, corners, strict=True)
        if 0 <= row - top < side and 0 <= column - left < side
    ]
    assert float(stitched[row, column]) == pytest.approx(sum(over) / len(over), abs=1e-6)
    assert float(maps.min()) - 1e-6 <= float(stitched.min()) <= float(stitched.max()) <= float(maps.max()) + 1e-6


@pytest.mark.parametrize("size", [(40, 100), (100, 40), (40, 40), (41, 40), (40, 41)])
@pytest.mark.parametrize("stride", [0.8, 1.0])
def test_stitching_what_was_cut_gives_the_image_back(size: tuple[int, int], stride: float) -> None:
    height, width = size
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    tiles = cut(image, 40, MEAN, STD, non_square="tile", stride=stride, resize="pil")
    assert tiles.size == size
    whole = stitch(tiles.pixels[:, 0], tiles.corners, tiles.size)
    expected = (torch.tensor(np.asarray(image)[..., 0] / 255.0, dtype=torch.float32) - 0.5) / 0.5
    torch.testing.assert_close(whole, expected)


def test_overlapping_maps_are_averaged() -> None:
    stitched = stitch(torch.stack([torch.zeros(2, 2), torch.ones(2, 2)]), [(0, 0), (0, 1)], (2, 3))
    assert stitched.tolist() == [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]


def test_squash_is_one_tile_of_the_whole_image() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    tiles = cut(image, 40, MEAN, STD, non_square="squash", stride=1.0, resize="pil")
    assert tiles.pixels.shape == (1, 3, 40, 40)
    assert tiles.size == (40, 40)
    assert tiles.pixels[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_both_ways_of_resizing_agree_up_to_rounding_and_clipping() -> None:
    generator = np.random.default_rng(0)
    smooth = generator.integers(60, 200, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((64, 64), Image.Resampling.BICUBIC)
    pil, tensor = (
        cut(image, 40, (0, 0, 0), (1, 1, 1), non_square="tile", stride=1.0, resize=how).pixels
        for how in ("pil", "tensor")
    )
    assert 0 < (pil - tensor).abs().max() <= 1.5 / 255


def test_masks_are_resized_to_the_map() -> None:
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    assert resize_mask(mask, (4, 4), "nearest") is mask
    for how in ("nearest", "bilinear"):
        assert resize_mask(mask, (2, 2), how).tolist() == [[True, False], [False, False]]
    lonely = np.zeros((8, 8), bool)
    lonely[0, 0] = True
    assert not resize_mask(lonely, (2, 2), "bilinear").any()


@given(height=st.integers(1, 90), width=st.integers(1, 90), data=st.data())
@settings(deadline=None)
def test_a_mask_is_resized_to_pixels_of_its_own(height: int, width: int, data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    mask = np.random.default_rng(height * width).random((height, width)) > 0.5
    for how in ("nearest", "nearest_floor", "bilinear"):
        found = resize_mask(mask, size, how)
        assert (found.shape, found.dtype) == (size, bool)
        assert resize_mask(np.ones_like(mask), size, how).all()
        assert not resize_mask(np.zeros_like(mask), size, how).any()


def test_the_nearest_pixel_is_at_the_centre_or_at_the_corner() -> None:
    mask = np.array([[True, False, True, False]])
    assert resize_mask(mask, (1, 2), "nearest").tolist() == [[False, False]]
    assert resize_mask(mask, (1, 2), "nearest_floor").tolist() == [[True, True]]
    assert resize_mask(mask, (1, 8), "nearest_floor").tolist() == np.repeat(mask, 2, axis=1).tolist()
