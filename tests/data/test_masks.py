"""Every kind of mask file becomes the right boolean array, or one sentence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from winclip_bench.data import Sample, check_mask_sizes, read_ground_truth, read_mask
from winclip_bench.data.masks import looks_soft
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
        f"{path}: the mask has 7×9 pixels and its image 9×7 (width×height); give them one size, "
        f"or set dataset.resize_masks=true if they show the same section"
    )


def test_missing_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    with pytest.raises(InputError, match=r"mask\.png does not exist; restore the file"):
        read_mask(path, SIZE)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"mask\.png: cannot be read as an image"):
        read_mask(path, (40, 40))


def test_floating_point_shares_are_soft(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.49, 0.51, 1]], np.float32)).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif", (4, 1)).tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[0, 0.49, 2, 3]], np.float32)).save(tmp_path / "codes.tif")
    assert read_mask(tmp_path / "codes.tif", (4, 1)).tolist() == [[False, True, True, True]]


@pytest.mark.parametrize(
    ("values", "threshold", "expected"),
    [
        (np.array([[0, 99, 100, 255]], np.uint8), 100, [[False, False, True, True]]),
        (np.array([[0, 99 * 257, 100 * 257, 65535]], np.uint16), 100, [[False, False, True, True]]),
        (np.array([[0, 0.39, 0.4, 1]], np.float32), 100, [[False, False, True, True]]),
        (np.array([[0, 99, 100, 255]], np.float32), 100, [[False, False, True, True]]),
        (np.array([[0, 1, 254, 255]], np.uint8), 1, [[False, True, True, True]]),
        (np.array([[0, 1, 254, 255]], np.uint8), 255, [[False, False, False, True]]),
        (np.array([[False, True, False, True]]), 255, [[False, True, False, True]]),
    ],
)
def test_a_threshold_that_is_set(
    tmp_path: Path, values: np.ndarray, threshold: int, expected: list[list[bool]]
) -> None:
    Image.fromarray(values).save(tmp_path / "mask.tif")
    assert read_mask(tmp_path / "mask.tif", (4, 1), threshold=threshold).tolist() == expected


def test_a_threshold_that_is_set_is_that_of_lossy_masks_too(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 99).save(tmp_path / "mask.jpg", quality=100)
    assert not read_mask(tmp_path / "mask.jpg", (8, 8), threshold=100).any()
    assert read_mask(tmp_path / "mask.jpg", (8, 8), threshold=99).all()


def test_a_threshold_leaves_palettes_alone(tmp_path: Path) -> None:
    mask = Image.fromarray(TRUTH.astype(np.uint8), "L").convert("P")
    mask.putdata(TRUTH.ravel().astype(int).tolist())
    mask.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE, threshold=200), TRUTH)


def test_resizing_takes_the_nearest_pixels(tmp_path: Path) -> None:
    large = TRUTH.repeat(3, axis=0).repeat(2, axis=1)
    Image.fromarray(large.astype(np.uint8) * 3).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", SIZE, resize=True), TRUTH)
    Image.fromarray(TRUTH).save(tmp_path / "small.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "small.png", (18, 21), resize=True), large)


def test_several_masks_are_one(tmp_path: Path) -> None:
    top, bottom = TRUTH.copy(), TRUTH.copy()
    top[5], bottom[:5] = False, False
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, part, code in zip(paths, (top, bottom), (1, 255), strict=True):
        Image.fromarray(part.astype(np.uint8) * np.uint8(code)).save(path)
    np.testing.assert_array_equal(read_ground_truth(paths, SIZE), TRUTH)
    assert not read_ground_truth([], SIZE).any()
    with pytest.raises(InputError, match=r"1\.png: the mask has"):
        Image.new("L", (3, 3)).save(paths[1])
        read_ground_truth(paths, SIZE)


def test_size_limit(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: .*dataset\.max_pixels allows 62"):
        read_mask(tmp_path / "mask.png", SIZE, max_pixels=62)


def test_soft_edges_are_told_from_class_codes(tmp_path: Path) -> None:
    codes = np.arange(32, dtype=np.uint8)[None] * 8
    edges = np.arange(64, dtype=np.uint8)[None] * 4
    assert not looks_soft(Image.fromarray(codes))
    assert looks_soft(Image.fromarray(edges))
    Image.fromarray(edges).save(tmp_path / "mask.jpg")
    with Image.open(tmp_path / "mask.jpg") as lossy:
        assert not looks_soft(lossy)  # its threshold is known


def sample(folder: Path, size: tuple[int, int], mask_size: tuple[int, int], defect: str = "crack") -> Sample:
    Image.new("RGB", size).save(folder / "image.png")
    Image.new("L", mask_size).save(folder / "mask.png")
    return Sample(folder / "image.png", "image.png", "cup", "test", defect, (folder / "mask.png",))


def test_sizes_by_header(tmp_path: Path) -> None:
    assert check_mask_sizes([sample(tmp_path, (9, 7), (9, 7))]) == 0
    assert check_mask_sizes([sample(tmp_path, (9, 7), (7, 9))]) == 0  # an orientation may turn one of them
    assert check_mask_sizes([sample(tmp_path, (9, 7), (9, 8), "good")]) == 0
    other = sample(tmp_path, (9, 7), (9, 8))
    assert check_mask_sizes([other, other], resize=True) == 2
    with pytest.raises(InputError, match=r"mask\.png: the mask has 9×8 pixels and its image 9×7"):
        check_mask_sizes([other])
    (tmp_path / "mask.png").write_text("left to whoever reads it")
    assert check_mask_sizes([other]) == 0
