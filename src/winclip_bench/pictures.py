"""Small pictures of test images, so that people can see what the numbers are about; records hold none.

Written when a category is evaluated, for some of its test images, those first that are ranked worst::

    <results_dir>/pictures/images/<sha256>.webp               an image, shared by all runs over it
    <results_dir>/pictures/<run_id>/<category>/<n>.webp       its anomaly map on the category's colour scale
    <results_dir>/pictures/<run_id>/<category>/<n>.own.webp   the same map on a scale of its own
    <results_dir>/pictures/<run_id>/<category>/pictures.json  what they show, written last

They are decoration: no number is computed from them, and a run without them is complete.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from winclip_bench.data import Sample, check_unchanged, read_image
from winclip_bench.errors import InputError
from winclip_bench.reading import LARGEST_LIST, check_regular, parse_json, read_bytes
from winclip_bench.records import safe_name, write_atomically

IMAGE_SIDE = 224  # pixels of the longer side
MAP_SIDE = 96  # a map is smooth: it comes from a grid of patches
_LONGEST_OUTLINE = 3000  # characters of an SVG path
_MOST_REGIONS = 200  # outlined, the largest ones
_CLIPPED = 0.001  # share of a category's pixels beyond either end of its scale, so that one hot pixel does not set it

# Viridis (van der Walt and Smith), at equal steps: even to the eye, also without colour vision and in grey.
_VIRIDIS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725")


@dataclass(frozen=True)
class Picture:
    """One test image to be shown.

    path     relative to the category
    sha256   of the image's file
    error    share of the images of the other label that it is ranked wrongly against; None where there are none
    low      lowest and, `high`, highest value of the anomaly map; None without a map
    width    of the image itself and, `height`, in pixels
    size     height and width that the outline is drawn in
    outline  of the ground truth, as an SVG path; empty where there is none
    """

    path: str
    sha256: str
    defect: str
    label: int
    image_score: float
    error: float | None
    low: float | None
    high: float | None
    width: int
    height: int
    size: tuple[int, int]
    outline: str


@dataclass(frozen=True)
class Shown:
    """The pictures of a category, in the order of `ranking`; ``low`` to ``high`` is its colour scale.

    total  how many test images there are to choose from
    """

    pictures: list[Picture]
    total: int
    low: float | None
    high: float | None


def ranking_errors(scores: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64] | None:
    """[n] the share of the images of the other label that each is ranked wrongly against, a tie counting half.

    scores, labels  [n]; labels are 0 or 1

    None where all images have one label. The mean over either label is 1 − AUROC.

    >>> ranking_errors(np.array([3, 2, 1, 0]), np.array([1, 0, 1, 0]))
    array([0. , 0.5, 0.5, 0. ])
    """
    anomalous = labels == 1
    if anomalous.all() or not anomalous.any():
        return None
    errors = np.empty(len(scores))
    for kind in (anomalous, ~anomalous):
        others = np.sort(scores[~kind])
        at_or_above = len(others) - np.searchsorted(others, scores[kind], "left")
        above = len(others) - np.searchsorted(others, scores[kind], "right")
        errors[kind] = (at_or_above + above) / (2 * len(others))
    errors[~anomalous] = 1 - errors[~anomalous]
    return errors


def ranking(scores: NDArray[Any], labels: NDArray[Any]) -> list[int]:
    """Indices, the worst false alarms and misses first: by error, and among equals by what is closest to one.

    >>> ranking(np.array([9, 8, 1, 0]), np.array([1, 0, 1, 0]))
    [1, 2, 0, 3]
    """
    anomalous = labels == 1
    errors = ranking_errors(scores, labels)
    if errors is None:
        errors, margin = np.zeros(len(scores)), np.where(anomalous, scores, -scores)
    else:
        margin = np.where(anomalous, scores - scores[~anomalous].max(), scores[anomalous].min() - scores)
    return [int(place) for place in np.lexsort((margin, -errors))]


def choose(scores: NDArray[Any], labels: NDArray[Any], limit: int) -> list[int]:
    """At most ``limit`` indices in the order of `ranking`, as many normal as anomalous ones where there are.

    >>> choose(np.array([9, 8, 7, 1, 0]), np.array([1, 1, 1, 0, 0]), 2)
    [2, 3]
    """
    order = ranking(scores, labels)
    normal, anomalous = ([place for place in order if labels[place] == label] for label in (0, 1))
    share = min(len(normal), max(limit // 2, limit - len(anomalous)))
    chosen = {*normal[:share], *anomalous[: limit - share]}
    return [place for place in order if place in chosen]


def outline(mask: NDArray[np.bool_], longest: int = _LONGEST_OUTLINE) -> str:
    """The border of a mask [h, w] as an SVG path in its pixels, of at most ``longest`` characters.

    >>> outline(np.array([[False, True, True, True], [False, True, True, True]]))
    'M3.5 2 1.5 2 1 .5 3.5 0Z'
    """
    # Only whoever makes pictures needs it, and whoever reads them would wait for its import.
    from skimage.measure import approximate_polygon, find_contours  # noqa: PLC0415

    contours = sorted(find_contours(np.pad(mask, 1).astype(np.uint8), 0.5), key=len, reverse=True)[:_MOST_REGIONS]
    tolerance = 0.5
    while True:
        path = "".join(_subpath(approximate_polygon(contour, tolerance) - 0.5) for contour in contours)
        if len(path) <= longest:
            return path
        if tolerance > max(mask.shape):
            contours = contours[: len(contours) // 2]
        tolerance *= 2


def _subpath(corners: NDArray[np.float64]) -> str:
    numbers = [
        f"{value:g}".replace("0.", ".", 1) if 0 < value < 1 else f"{value:g}" for value in corners[:-1, ::-1].flat
    ]
    return f"M{' '.join(numbers)}Z" if numbers else ""


@dataclass(frozen=True)
class Gallery:
    """What to show of a category and what it is drawn from.

    maps    of ``shown.pictures``, in their order; None from a method without
    images  sha256 -> image file, of the pictures and the references
    """

    shown: Shown
    maps: list[NDArray[np.float32]] | None
    images: Mapping[str, Path]


def gallery(
    samples: Sequence[tuple[Sample, str]],
    scores: Sequence[float],
    sizes: Sequence[tuple[int, int]],
    maps: Sequence[NDArray[np.float32]] | None,
    masks: Sequence[NDArray[np.bool_]] | None,
    *,
    limit: int,
    references: Mapping[str, Path],
) -> Gallery:
    """At most ``limit`` of a category's test images, by `choose`.

    samples     each with the sha256 of its image
    sizes       (width, height) of the images
    maps        [h, w] each, or None from a method without; masks are of their sizes, or None where there are none
    references  sha256 -> image file
    """
    values, labels = np.asarray(scores, np.float64), np.array([sample.label for sample, _ in samples])
    chosen = choose(values, labels, limit)
    errors = ranking_errors(values, labels)
    low, high = (None, None) if maps is None else colour_scale(maps)
    pictures = [
        Picture(
            path=samples[place][0].key,
            sha256=samples[place][1],
            defect=samples[place][0].defect,
            label=samples[place][0].label,
            image_score=float(values[place]),
            error=None if errors is None else float(errors[place]),
            low=None if maps is None else float(maps[place].min()),
            high=None if maps is None else float(maps[place].max()),
            width=sizes[place][0],
            height=sizes[place][1],
            size=(1, 1) if masks is None else (masks[place].shape[0], masks[place].shape[1]),
            outline="" if masks is None else outline(masks[place]),
        )
        for place in chosen
    ]
    return Gallery(
        Shown(pictures, len(samples), low, high),
        None if maps is None else [maps[place] for place in chosen],
        {**references, **{samples[place][1]: samples[place][0].image for place in chosen}},
    )


def colour_scale(maps: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The values that the ends of the colours stand for: all but a thousandth of the pixels on either side."""
    some = np.concatenate([values[::4, ::4].reshape(-1) for values in maps])
    low, high = np.quantile(some, (_CLIPPED, 1 - _CLIPPED))
    return float(low), float(high)


def coloured(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """A map [h, w] as colours [h, w, 3], ``low`` and below dark violet, ``high`` and above yellow.

    >>> coloured(np.array([[0.0, 1.0]]), 0.0, 1.0).tolist()
    [[[68, 1, 84], [253, 231, 37]]]
    """
    steps = np.array([[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in _VIRIDIS], float)
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    at = np.linspace(0, 1, len(steps))
    channels = [np.interp(share, at, steps[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def write(results_dir: Path, run_id: str, category: str, content: Gallery) -> None:
    """Write the pictures of a category; images that are there already are not decoded again.

    Raises InputError where an image cannot be read or the file system refuses.
    """
    shown = content.shown
    for sha256, image in content.images.items():
        path = image_path(results_dir, sha256)
        if not path.exists():
            decoded = read_image(image)
            check_unchanged(image, sha256)  # all runs over this image will show what is written here
            write_atomically(path, _webp(_small(decoded, IMAGE_SIDE), 75))
    for number, values in enumerate(content.maps or ()):
        small = np.asarray(_small(Image.fromarray(values), MAP_SIDE))
        picture = shown.pictures[number]
        for own, low, high in ((False, shown.low, shown.high), (True, picture.low, picture.high)):
            assert low is not None
            assert high is not None
            path = map_path(results_dir, run_id, category, number, own=own)
            write_atomically(path, _webp(Image.fromarray(coloured(small, low, high)), 80))
    text = json.dumps(asdict(shown), sort_keys=True, separators=(",", ":"), allow_nan=False)
    write_atomically(index_path(results_dir, run_id, category), text.encode())


def image_path(results_dir: Path, sha256: str) -> Path:
    """Where the picture of an image lies."""
    return Path(results_dir) / "pictures" / "images" / f"{safe_name(sha256, 'sha256')}.webp"


def map_path(results_dir: Path, run_id: str, category: str, number: int, *, own: bool) -> Path:
    """Where a map's picture lies, on the category's scale or on its own."""
    return index_path(results_dir, run_id, category).with_name(f"{number}{'.own' * own}.webp")


def index_path(results_dir: Path, run_id: str, category: str) -> Path:
    """Where it is written which pictures there are."""
    folder = Path(results_dir) / "pictures" / safe_name(run_id, "run_id")
    return folder / safe_name(category, "category") / "pictures.json"


def read(results_dir: Path, run_id: str, category: str) -> Shown | None:
    """The pictures of a category; None where there are none. Raises InputError where the file is not usable."""
    path = index_path(results_dir, run_id, category)
    try:
        check_regular(path)
        content = parse_json(read_bytes(path, LARGEST_LIST))
        pictures = [_picture(entry) for entry in content.pop("pictures")]
        shown = Shown(pictures=pictures, **content)
        _require(_is_number(shown.total) and all(map(_is_number_or_none, (shown.low, shown.high))))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is not usable: delete it, or make it again with force=true") from error
    return shown


def _picture(entry: Any) -> Picture:
    picture = Picture(**{**entry, "size": tuple(entry["size"])})
    for field in fields(Picture):
        value = getattr(picture, field.name)
        if field.type is str:
            _require(isinstance(value, str))
        elif field.name != "size":
            _require(_is_number(value) if field.type in (int, float) else _is_number_or_none(value))
    _require(len(picture.size) == 2 and all(map(_is_number, picture.size)))
    _require(re.fullmatch("[0-9a-f]{64}", picture.sha256) is not None)
    _require(not set(picture.outline) - set("0123456789.e-+ MZ"))
    return picture


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_number_or_none(value: Any) -> bool:
    return value is None or _is_number(value)


def _small(image: Image.Image, side: int) -> Image.Image:
    share = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image if size == image.size else image.resize(size, Image.Resampling.BOX, reducing_gap=None)


def _webp(image: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality)
    return data.getvalue()
