"""Images made from references: augmented copies for calibration, pseudo-anomalies for the embedding baselines.

They are kept as files below the cache folder, named by what they are made from, so that their features are stored like
those of any other image, and anybody can look at them.
"""

import hashlib
import io
import logging
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from PIL import Image, ImageEnhance

from winclip_bench.data import file_sha256, read_image
from winclip_bench.encoding import ImageFile
from winclip_bench.errors import InputError
from winclip_bench.methods.pseudo_anomalies import mirrored, pseudo_anomaly
from winclip_bench.records import write_atomically

log = logging.getLogger(__name__)

_VERSION = 1  # raise it with every change of a pixel

# What a normal part may look like on another day: turned about, a little darker or brighter.
_COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "left-right": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "top-bottom": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.92),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.08),
}


def augmented(image: ImageFile, cache_dir: str, max_pixels: int) -> list[ImageFile]:
    """Copies of a normal image that are normal too."""
    return [_made(image, name, make, cache_dir, max_pixels=max_pixels) for name, make in _COPIES.items()]


def damaged_copy(image: ImageFile, seed: int, cache_dir: str, max_pixels: int) -> ImageFile:
    """A pseudo-anomaly made of a normal image."""
    key = (seed, image.sha256, 0)
    how = f"damaged {key}"
    return _made(image, how, lambda pixels: pseudo_anomaly(pixels, *key), cache_dir, max_pixels=max_pixels)


def mirrored_copy(image: ImageFile, seed: int, cache_dir: str, max_pixels: int) -> ImageFile:
    """The undamaged copy that the original linear head learns as anomalous."""
    how = f"mirrored {seed}"
    return _made(image, how, lambda pixels: mirrored(pixels, seed, image.sha256), cache_dir, max_pixels=max_pixels)


def _made(
    image: ImageFile, how: str, make: Callable[[Image.Image], Image.Image], cache_dir: str, *, max_pixels: int
) -> ImageFile:
    name = hashlib.sha256(f"{_VERSION} {image.sha256} {how}".encode()).hexdigest()
    path = Path(cache_dir) / "made" / name[:2] / f"{name}.png"
    if not path.exists():
        content = io.BytesIO()
        try:
            make(read_image(image.path, max_pixels)).save(content, "PNG", compress_level=1)
        except ValueError as error:
            raise InputError(f"{image.path} cannot be damaged ({error}); take it out of the training images") from error
        try:
            write_atomically(path, content.getvalue())
        except InputError:
            path = Path(_scratch(cache_dir).name) / path.name
            path.write_bytes(content.getvalue())
    return ImageFile(path, file_sha256(path))


@cache
def _scratch(cache_dir: str) -> "tempfile.TemporaryDirectory[str]":
    """A folder that lasts as long as the process, in the place of one that cannot be written to."""
    log.warning("runtime.cache_dir=%s cannot be written to, so images made from references are not kept", cache_dir)
    return tempfile.TemporaryDirectory(prefix="winclip-bench-made-")
