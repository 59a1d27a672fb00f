"""Every kind of file becomes the right 8-bit RGB, or one sentence."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from winclip_bench.data import read_image
from winclip_bench.data.images import to_rgb
from winclip_bench.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ORIENTATION = 0x0112


def pixels(path: Path) -> NDArray[np.uint8]:
    image = read_image(path)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return np.asarray(image)


def grey_rgb(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.repeat(values[:, :, None], 3, axis=2)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "TIFF", "webp"])
def test_rgb_of_lossless_formats(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image.{ending}"
    Image.fromarray(RGB).save(path, **({"lossless": True} if ending == "webp" else {}))
    np.testing.assert_array_equal(pixels(path), RGB)


def test_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "photo.JPG"
    Image.fromarray(RGB).save(path, format="PNG")
    np.testing.assert_array_equal(pixels(path), RGB)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_lossy_formats_are_close(tmp_path: Path, ending: str) -> None:
    flat = np.full((16, 24, 3), (200, 120, 40), np.uint8)
    Image.fromarray(flat).save(tmp_path / f"image.{ending}", quality=95)
    assert np.abs(pixels(tmp_path / f"image.{ending}").astype(int) - flat).max() <= 3


def test_grey_and_bilevel(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(pixels(tmp_path / "grey.png"), grey_rgb(GREY))
    Image.fromarray(GREY > 99).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(pixels(tmp_path / "bilevel.png"), grey_rgb((GREY > 99) * 255))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_and_not_saturated(tmp_path: Path, ending: str) -> None:
    values = np.array([[0, 128, 129, 257, 300], [1000, 25700, 40000, 65406, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"image.{ending}")
    expected = [[0, 0, 1, 1, 1], [4, 100, 156, 254, 255]]
    np.testing.assert_array_equal(pixels(tmp_path / f"image.{ending}"), grey_rgb(np.array(expected)))


def test_big_endian_16_bit_grey(tmp_path: Path) -> None:
    values = np.array([[0, 257, 25700, 65535]], ">u2")
    Image.frombytes("I;16B", (4, 1), values.tobytes()).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "image.tif"), grey_rgb(np.array([[0, 1, 100, 255]])))


def test_32_bit_grey_counts_as_16_bit(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 25700, 65535]], np.int32)).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "image.tif"), grey_rgb(np.array([[0, 100, 255]])))


@pytest.mark.parametrize("values", [[0, 70000], [-1, 5]])
def test_32_bit_grey_of_another_range(tmp_path: Path, values: list[int]) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(np.array([values], np.int32)).save(path)
    with pytest.raises(InputError) as raised:
        read_image(path)
    assert str(raised.value) == (
        f"{path}: its integer values reach from {values[0]} to {values[1]} instead of lying in 0–65535; "
        f"save it with 8 or 16 bits"
    )


@pytest.mark.parametrize(
    ("values", "expected"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 0.6, 100.4, 255.0], [0, 1, 100, 255])]
)
def test_floating_point_grey(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "image.tif"), grey_rgb(np.array([expected])))


@pytest.mark.parametrize("value", [-0.5, 256.0, np.nan, np.inf])
def test_floating_point_grey_of_another_range(tmp_path: Path, value: float) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(path)
    with pytest.raises(InputError, match=r"its floating point values reach from .* instead of lying in 0–255; save it"):
        read_image(path)


def test_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(5)
    image.save(tmp_path / "image.png")
    np.testing.assert_array_equal(pixels(tmp_path / "image.png"), np.asarray(image.convert("RGB")))


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "image.png", transparency=bytes([0, 128]))
    np.testing.assert_array_equal(pixels(tmp_path / "image.png"), [[[10, 20, 30], [40, 50, 60]]])


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_alpha_is_dropped(tmp_path: Path, ending: str) -> None:
    alpha = np.random.default_rng(1).integers(0, 256, (7, 9, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / f"rgba.{ending}")
    np.testing.assert_array_equal(pixels(tmp_path / f"rgba.{ending}"), RGB)
    Image.fromarray(np.concatenate([RGB[:, :, :1], alpha], axis=2)).save(tmp_path / f"la.{ending}")
    np.testing.assert_array_equal(pixels(tmp_path / f"la.{ending}"), grey_rgb(GREY))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "image.jpg").astype(int) - flat).max() <= 3


def test_colours_that_have_no_way_to_rgb() -> None:
    """Premultiplied grey with alpha, as some TIFF files have it."""
    with pytest.raises(InputError, match=r"^image\.tif: colours of the kind 'La' are not supported; save it as RGB$"):
        to_rgb(Image.new("La", (2, 2)), Path("image.tif"))


# What each orientation's stored pixels are turned into, by the Exif standard's words for where row 0 and column 0 lie.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_exif_orientation(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(RGB).save(tmp_path / f"image.{ending}", exif=exif, **options)
    np.testing.assert_array_equal(pixels(tmp_path / f"image.{ending}"), UPRIGHT[orientation](RGB))


def test_exif_orientation_of_jpeg_and_16_bit(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (24, 16)).save(tmp_path / "image.jpg", exif=exif)
    assert read_image(tmp_path / "image.jpg").size == (16, 24)
    values = np.array([[0, 25700, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "image.png"), grey_rgb(np.array([[0], [100], [255]])))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncation_is_noticed(tmp_path: Path, ending: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format={"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
    whole = buffer.getvalue()
    path = tmp_path / f"image.{ending}"
    for kept in (0, 1, 20, len(whole) // 3, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError) as raised:
            read_image(path)
        assert str(raised.value).startswith(f"{path}: cannot be read as an image (")
        assert str(raised.value).endswith("); replace the file or take it out of the dataset")


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"image\.png: cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "EPS"])
def test_other_formats_stay_closed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path, format=kind)
    with pytest.raises(InputError, match=r"image\.png: cannot be read as an image \(cannot identify image file"):
        read_image(path)


def test_missing_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    sentence = f"{path} does not exist; restore the file or take it out of the dataset"
    with pytest.raises(InputError) as raised:
        read_image(path)
    assert str(raised.value) == sentence
    path.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError) as raised:
        read_image(path)
    assert str(raised.value) == sentence


def test_pixel_limit(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    assert read_image(path, max_pixels=63).size == (9, 7)
    with pytest.raises(InputError) as raised:
        read_image(path, max_pixels=62)
    assert str(raised.value) == (
        f"{path}: cannot be read as an image (it has 9×7 pixels, and dataset.max_pixels allows 62); "
        f"replace the file or take it out of the dataset"
    )


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (20_000, "it has more than the 89478485 pixels that dataset.max_pixels allows"),
        (10_000, "it has 10000×10000 pixels, and dataset.max_pixels allows 89478485"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb(tmp_path: Path, side: int, reason: str) -> None:
    """A file that only claims its size: were anything decoded, it would be truncated instead."""
    path = tmp_path / "bomb.png"
    Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_image(path)
    assert reason in str(raised.value)


def test_limit_above_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert read_image(path, max_pixels=63).size == (9, 7)


def test_multi_picture_jpeg_of_phones_gives_its_first_image(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (16, 8), (200, 120, 40)), Image.new("RGB", (8, 8))
    first.save(tmp_path / "image.jpg", format="MPO", save_all=True, append_images=[second])
    assert read_image(tmp_path / "image.jpg").size == (16, 8)
