"""Reading ground-truth masks, whatever the files really contain, as true where anomalous."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from winclip_bench.data.images import MAX_PIXELS, decode, header_size, to_rgb
from winclip_bench.data.samples import Sample
from winclip_bench.errors import InputError

SOFT_THRESHOLD = 128  # of 255

# A mask with more grey values than this has soft edges: no dataset has so many classes in one image.
_MOST_CLASSES = 32


def read_mask(
    path: Path,
    size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
    threshold: int | None = None,
    resize: bool = False,
) -> NDArray[np.bool_]:
    """The mask of an image of `size` (width, height) as a boolean array [height, width], true where anomalous.

    A pixel is anomalous where its value is not 0, be that a grey value of any depth, a palette index or a class code;
    in colour, where any channel is not 0. Fully transparent pixels are normal whatever their colour. Soft masks are
    decided by a threshold, 128 of 255: lossy files (JPEG, WebP, TIFF with JPEG inside), which have no clean zeros, and
    floating point values that do not exceed 1.

    threshold   1–255: lossless grey and colour are soft masks too, and this is the threshold of all of them, as a
                share of the largest value there can be; palettes and bilevel files stay as they are
    resize      a mask of another size than its image takes the nearest pixels instead of being an error

    Raises `InputError` as `read_image` does, and where the mask has another size than its image.
    """
    mask = decode(path, max_pixels)
    anomalous = anomalous_pixels(mask, path, threshold)
    if mask.size == size:
        return anomalous
    if not resize:
        raise InputError(size_fault(path, mask.size, size))
    return nearest(anomalous, size)


def nearest(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another size (width, height), of the nearest pixels."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) != 0


def read_ground_truth(
    paths: Sequence[Path],
    size: tuple[int, int],
    max_pixels: int = MAX_PIXELS,
    threshold: int | None = None,
    resize: bool = False,
) -> NDArray[np.bool_]:
    """The union [height, width] of an image's masks, all as `read_mask` reads them; nothing where there are none."""
    union: NDArray[np.bool_] = np.zeros((size[1], size[0]), dtype=bool)
    for path in paths:
        union |= read_mask(path, size, max_pixels, threshold, resize)
    return union


def check_mask_sizes(samples: Iterable[Sample], resize: bool = False) -> int:
    """How many anomalous images have a mask of another size, by what the headers of the files say.

    Raises `InputError` for the first one unless `resize`. What the headers leave open is left to reading: sides that
    are swapped, which may be set right by an orientation, and files without a readable header.
    """
    others = 0
    for sample in samples:
        for mask in sample.masks if sample.label else ():
            size, mask_size = header_size(sample.image), header_size(mask)
            if size is None or mask_size is None or sorted(size) == sorted(mask_size):
                continue
            if not resize:
                raise InputError(size_fault(mask, mask_size, size))
            others += 1
            break
    return others


def size_fault(path: Path, mask_size: tuple[int, int], size: tuple[int, int]) -> str:
    """What is said of a mask of another size than its image, both as (width, height)."""
    return (
        f"{path}: the mask has {mask_size[0]}×{mask_size[1]} pixels and its image {size[0]}×{size[1]} (width×height); "
        f"give them one size, or set dataset.resize_masks=true if they show the same section"
    )


def anomalous_pixels(mask: Image.Image, path: Path, threshold: int | None = None) -> NDArray[np.bool_]:
    """The anomalous pixels [height, width] of a decoded mask; see `read_mask`."""
    if mask.mode in ("1", "P"):
        return np.asarray(mask) != 0
    if mask.mode.startswith("I") or mask.mode == "F":
        return _deep_anomalous(np.asarray(mask), threshold)
    lowest = threshold or (SOFT_THRESHOLD if _is_lossy(mask) else 1)
    if mask.mode not in ("L", "LA", "RGB", "RGBA"):
        mask = to_rgb(mask, path)
    has_alpha = mask.mode in ("LA", "RGBA")
    channels = np.asarray(mask).reshape(mask.height, mask.width, -1)
    anomalous: NDArray[np.bool_] = np.zeros((mask.height, mask.width), dtype=bool)
    for channel in range(channels.shape[2] - has_alpha):
        anomalous |= channels[:, :, channel] >= lowest
    if has_alpha:
        anomalous &= channels[:, :, -1] > 0
    return anomalous


def looks_soft(mask: Image.Image) -> bool:
    """Whether a decoded mask is lossless 8-bit grey of so many values that they cannot be class codes."""
    return mask.mode == "L" and not _is_lossy(mask) and len(mask.getcolors(256) or ()) > _MOST_CLASSES


def _deep_anomalous(values: NDArray[np.generic], threshold: int | None) -> NDArray[np.bool_]:
    """Of values of more than 8 bits, on the same scales as an image has them."""
    grey = values.astype(np.float64)
    is_share = values.dtype.kind == "f" and grey.max() <= 1
    if threshold is None and not is_share:
        return grey != 0
    full = 1 if is_share else 255 if values.dtype.kind == "f" else 65535
    return grey >= (threshold or SOFT_THRESHOLD) / 255 * full


def _is_lossy(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO", "WEBP") or image.info.get("compression") == "jpeg"
