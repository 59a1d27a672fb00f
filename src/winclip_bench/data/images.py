"""Reading one image file, whatever it really contains, as 8-bit RGB."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from winclip_bench.errors import InputError
from winclip_bench.files import check_plain

# What the file holds decides, not its name. Other decoders of Pillow stay closed: some start external programs.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

MAX_PIXELS = 89_478_485  # Pillow's own limit: a quarter of a gigabyte as 8-bit RGB


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first image of a file as RGB, turned upright as its EXIF orientation says.

    16-bit grey is scaled from 0–65535 to 0–255, and so is 32-bit integer grey, which must lie in that range. Floating
    point grey must lie in 0–1, which is scaled, or in 0–255. Alpha is dropped: the stored colours count, also under
    transparent pixels. Palettes are looked up.

    Raises `InputError` that names the file where it is missing, truncated, of more than `max_pixels` pixels, or no
    image of the formats PNG, JPEG, BMP, TIFF and WebP.
    """
    return to_8_bit_rgb(decode(path, max_pixels), path)


def to_8_bit_rgb(image: Image.Image, path: Path) -> Image.Image:
    """A decoded image of any mode as `read_image` gives it; raises `InputError` where its values have no such form."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image), path)).convert("RGB")
    return to_rgb(image, path)


def decode(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A file's first image in the mode it is stored in, fully decoded and upright; raises as `read_image`."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow would refuse what the caller allows
    try:
        check_plain(path)
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                image.load()  # all of it: only this notices a truncated file
                ImageOps.exif_transpose(image, in_place=True)
                return image
        reason = f"it has {width}×{height} pixels, and dataset.max_pixels allows {max_pixels}"
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; restore the file or take it out of the dataset") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"it has more than the {max_pixels} pixels that dataset.max_pixels allows"
    except Exception as error:  # decoders let through whatever a damaged file makes them stumble over
        reason = str(error) or type(error).__name__
    raise InputError(f"{path}: cannot be read as an image ({reason}); replace the file or take it out of the dataset")


def header_size(path: Path) -> tuple[int, int] | None:
    """The (width, height) that a file's header says, before any orientation; None where it cannot be read."""
    try:
        check_plain(path)
        with Image.open(path, formats=_FORMATS) as image:
            return image.size
    except Exception:  # reading the whole file will say what is wrong with it
        return None


def to_rgb(image: Image.Image, path: Path) -> Image.Image:
    """An image of 8-bit channels as RGB, without its alpha; raises `InputError` where Pillow knows no way."""
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")  # straight to RGB, Pillow warns about palettes with alpha
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(f"{path}: colours of the kind {image.mode!r} are not supported; save it as RGB") from error


def _to_8_bit(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits on 0–255, rounded to the nearest."""
    grey = values.astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    is_float = values.dtype.kind == "f"
    limit = 255 if is_float else 65535
    if not (low >= 0 and high <= limit):  # also true of NaN
        kind = "floating point" if is_float else "integer"
        raise InputError(
            f"{path}: its {kind} values reach from {low:g} to {high:g} instead of lying in 0–{limit}; "
            f"save it with 8 or 16 bits"
        )
    full = 1 if is_float and high <= 1 else limit
    return np.rint(grey * (255 / full)).astype(np.uint8)
