"""Reading one ground-truth mask, whatever it really contains, as true where anomalous."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from winclip_bench.data.images import MAX_PIXELS, decode, to_rgb
from winclip_bench.errors import InputError

LOSSY_THRESHOLD = 128


def read_mask(path: Path, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> NDArray[np.bool_]:
    """The mask of an image of `size` (width, height) as a boolean array [height, width], true where anomalous.

    A pixel is anomalous where its value is not 0, be that a grey value of any depth, a palette index or a class code;
    in colour, where any channel is not 0. Fully transparent pixels are normal whatever their colour. Lossy files
    (JPEG, WebP, TIFF with JPEG inside) have no clean zeros: there a channel must reach 128 of 255.

    Raises `InputError` as `read_image` does, and where the mask has another size than its image.
    """
    mask = decode(path, max_pixels)
    if mask.size != size:
        raise InputError(
            f"{path}: the mask has {mask.width}×{mask.height} pixels and its image {size[0]}×{size[1]} (width×height); "
            f"give them one size"
        )
    if mask.mode in ("1", "P", "F") or mask.mode.startswith("I"):
        return np.asarray(mask) != 0
    threshold = LOSSY_THRESHOLD if _is_lossy(mask) else 1
    if mask.mode not in ("L", "LA", "RGB", "RGBA"):
        mask = to_rgb(mask, path)
    has_alpha = mask.mode in ("LA", "RGBA")
    channels = np.asarray(mask).reshape(mask.height, mask.width, -1)
    anomalous: NDArray[np.bool_] = np.zeros((mask.height, mask.width), dtype=bool)
    for channel in range(channels.shape[2] - has_alpha):
        anomalous |= channels[:, :, channel] >= threshold
    if has_alpha:
        anomalous &= channels[:, :, -1] > 0
    return anomalous


def _is_lossy(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO", "WEBP") or image.info.get("compression") == "jpeg"
