"""Every kind of mask file becomes the right boolean array, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from winclip_bench.data import read_mask
from winclip_bench.errors import InputError

SIZE = (9, 7)
TRUTH = np.zeros((7, 9), bool)
TRUTH[1:4, 2:5] = True
TRUTH[5, 7] = True


def check(path: Path) -> None:
    mask = read_mask(path, SIZE)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, TRUTH)


@pytest.mark.parametrize("value", [1, 3, 127, 255])
@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_grey_and_class_codes(tmp_path: Path, value: int, ending: str) -> None:
    Image.fromarray(TRUTH.astype(np.uint8) * np.uint8(value)).save(tmp_path / f"mask.{ending}")
    check(tmp_path / f"mask.{ending}")


def test_bilevel(tmp_path: Path) -> None:
    Image.fromarray(TRUTH).save(tmp_path / "mask.png")
    check(tmp_path / "mask.png")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(TRUTH.astype(dtype)).save(tmp_path / "mask.tif")
    check(tmp_path / "mask.tif")


def test_palette_indices_count_and_not_their_colours(tmp_path: Path) -> None:
    """Index 1 is black, so that a conversion to grey would lose it, and 0 is white."""
    mask = Image.fromarray(TRUTH.astype(np.uint8), "L").convert("P")
    mask.putdata(TRUTH.ravel().astype(int).tolist())
    mask.putpalette([255, 255, 255, 0, 0, 0])
    mask.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as stored:
        assert stored.mode == "P"
    check(tmp_path / "mask.png")


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colour(tmp_path: Path, channel: int) -> None:
    values = np.zeros((7, 9, 3), np.uint8)
    values[TRUTH, channel] = 1
    Image.fromarray(values).save(tmp_path / "mask.png")
    check(tmp_path / "mask.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_normal(tmp_path: Path, channels: int) -> None:
    values = np.full((7, 9, channels + 1), 255, np.uint8)
    values[..., -1] = TRUTH
    Image.fromarray(values).save(tmp_path / "mask.png")
    check(tmp_path / "mask.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_opaque_black_is_normal(tmp_path: Path, channels: int) -> None:
    values = np.full((7, 9, channels + 1), 255, np.uint8)
    values[~TRUTH, :-1] = 0
    Image.fromarray(values).save(tmp_path / "mask.png")
    check(tmp_path / "mask.png")


@pytest.mark.parametrize(("ending", "options"), [("jpg", {"quality": 60}), ("webp", {"quality": 60})])
@pytest.mark.parametrize("colour", [False, True])
def test_lossy_masks_by_threshold(tmp_path: Path, ending: str, options: dict[str, int], colour: bool) -> None:
    """Compression leaves small values around the region, and red alone is darker than half as grey."""
    truth = np.zeros((64, 64), bool)
    truth[17:41, 18:47] = True
    values = np.zeros((64, 64, 3), np.uint8)
    values[truth] = (255, 0, 0) if colour else (255, 255, 255)
    path = tmp_path / f"mask.{ending}"
    Image.fromarray(values if colour else values[:, :, 0]).save(path, **options)
    with Image.open(path) as stored:
        assert len(np.unique(np.asarray(stored))) > 2
    mask = read_mask(path, (64, 64))
    # Colour is stored at half the resolution: a pixel of its border may go either way.
    inner, outer = truth.copy(), truth.copy()
    if colour:
        inner[:] = outer[:] = False
        inner[19:39, 20:45] = True
        outer[15:43, 16:49] = True
    assert mask[inner].all()
    assert not mask[~outer].any()


def test_lossy_threshold_is_128(tmp_path: Path) -> None:
    for value in (127, 128):
        Image.new("L", (8, 8), value).save(tmp_path / "mask.jpg", quality=100)
        assert read_mask(tmp_path / "mask.jpg", (8, 8)).all() == (value == 128)


def test_cmyk_jpeg_is_lossy_too(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (100, 100, 100)).convert("CMYK").save(tmp_path / "mask.jpg")
    assert not read_mask(tmp_path / "mask.jpg", (8, 8)).any()


def test_tiff_with_jpeg_inside(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 100).save(tmp_path / "mask.tif", compression="jpeg")
    assert not read_mask(tmp_path / "mask.tif", (16, 16)).any()


def test_empty_mask_is_read(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png", SIZE).any()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(TRUTH).astype(np.uint8)).save(tmp_path / "mask.png", exif=exif)
    check(tmp_path / "mask.png")


def test_another_size_than_the_image(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (7, 9)).save(path)
    with pytest.raises(InputError) as raised:
        read_mask(path, SIZE)
    assert str(raised.value) == (
        f"{path}: the mask has 7×9 pixels and its image 9×7 (width×height); give them one size"
    )


def test_missing_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(InputError, match=r"mask\.png does not exist; restore the file"):
        read_mask(path, SIZE)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"mask\.png: cannot be read as an image"):
        read_mask(path, (40, 40))
