"""The embedded demo data: nine categories of made images in MVTec layout, the same bits on every machine.

Brick, grass and gravel (CC0) and tissue (no known copyright restrictions) are crops of photographs in scikit-image's
wheel; button, fabric, tile, washer and wood are drawn. Defects are painted over the normal image before the camera
(light, exposure, noise), so a mask is exactly the set of pixels that changed.

Every sample belongs to one of three pools, named by its split:

``fit``    endless, for training a demo model; never written to disk
``train``  the normal references, ``train/good``
``test``   ``test/<defect>`` and ``test/good``

The pools share nothing: photographs are cropped from disjoint cells (`scenes.POOL_CELLS`), and all random numbers come
from streams keyed by seed, split, category, defect and index. `HELD_OUT_CATEGORIES` and `HELD_OUT_DEFECTS` were fixed
before any model was trained; no training may look at them, so that they show what a model does with the unknown.
"""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from winclip_bench.data.demo.defects import DEFECTS
from winclip_bench.data.demo.draws import Draws, direction, pixel_grid
from winclip_bench.data.demo.scenes import SCENES, SIZE, Scene
from winclip_bench.data.samples import GOOD
from winclip_bench.errors import InputError

Pool = Literal["fit", "train", "test"]

VERSION: Final = 1  # part of the folder's name: raise it with every change of a pixel
SEED: Final = 0

CATEGORIES: Final[dict[str, tuple[str, ...]]] = {
    "brick": ("crack", "hole", "patch_swap", "smear", "stain"),
    "button": ("crack", "dots", "missing_part", "scratch", "smear"),
    "fabric": ("hole", "patch_swap", "scratch", "smear", "stain"),
    "grass": ("dots", "hole", "smear", "stain"),
    "gravel": ("dots", "hole", "smear", "stain"),
    "tile": ("crack", "dots", "missing_part", "scratch", "stain"),
    "tissue": ("dots", "scratch", "smear", "stain"),
    "washer": ("dots", "missing_part", "scratch", "smear", "stain"),
    "wood": ("crack", "hole", "patch_swap", "scratch", "stain"),
}
HELD_OUT_CATEGORIES: Final = ("washer", "wood")
HELD_OUT_DEFECTS: Final = ("crack", "smear")

REFERENCES: Final = 12  # per category in train/good
GOOD_TESTS: Final = 12  # per category in test/good
DEFECT_TESTS: Final = 8  # per category and defect type
POOLED_DEFECT_TESTS: Final = 3  # the same where all categories are one

# A defect covers between these fractions of the image and changes each of its pixels by at least LEAST_CHANGE grey
# levels; on average it changes them by at least VISIBLE levels and OVER_GROUND times the ground's own deviation.
AREA: Final = (0.005, 0.06)
LEAST_CHANGE: Final = 8
VISIBLE: Final = 20.0
OVER_GROUND: Final = 1.0

# A temporary folder of this age in seconds was left by a process that was killed: writing takes about ten.
ABANDONED: Final = 3600.0

Bytes = NDArray[np.uint8]
Region = NDArray[np.bool_]


def make_sample(
    category: str, defect: str, split: Pool, index: int, seed: int = SEED, *, painted: bool = True
) -> tuple[Bytes, Region]:
    """One image [160, 160, 3] and its mask [160, 160]; a pure function of its arguments.

    defect is any of `DEFECTS`, not only those that the category has on disk (``missing_part`` for objects alone, else
    ValueError), or ``good`` with an empty mask. index is any integer ≥ 0; the written data set holds the first few of
    the default seed. painted=False leaves the defect out and gives the clean twin: equal to the image at every pixel
    outside the mask, different at every pixel inside.
    """
    key = (seed, split, category, defect, index)
    scene = SCENES[category](Draws("scene", *key), split)
    normal = _quantised(scene.image)
    image, mask = (normal, np.zeros((SIZE, SIZE), np.bool_)) if defect == GOOD else _damaged(scene, normal, defect, key)
    return _photographed(Draws("camera", *key), image if painted else normal), mask


def _quantised(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole grey levels, with room at both ends so that no later step makes two different pixels equal."""
    return np.floor(np.clip(image, 12.0, 236.0) + 0.5)


def _damaged(
    scene: Scene, normal: NDArray[np.float64], defect: str, key: tuple[int | str, ...]
) -> tuple[NDArray[np.float64], Region]:
    """The normal image with a defect painted in that is neither too small, too large nor too faint; and its region."""
    draws = Draws("defect", *key)
    for _ in range(1000):
        region, paint = DEFECTS[defect](draws, scene)
        mask = region & scene.support
        if not AREA[0] <= np.count_nonzero(mask) / mask.size <= AREA[1]:
            continue
        painted = _quantised(paint)
        # Where the paint happens to match the ground it is pushed away, so that the mask has no pinholes.
        unseen = np.abs(painted - normal).max(axis=2) < LEAST_CHANGE
        painted = np.where(unseen[..., None], normal + np.where(normal > 124.0, -LEAST_CHANGE, LEAST_CHANGE), painted)
        if _visible(normal[mask], painted[mask]):
            return np.where(mask[..., None], painted, normal), mask
    raise RuntimeError(f"no {defect} of allowed size and contrast was found for {key}")


def _visible(before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
    """Whether the colours [n, 3] of a region changed enough, in levels and against their own deviation.

    All sums are over whole numbers, so they are exact in any order.
    """
    level = np.floor(before.sum(axis=0) / len(before))
    deviation = np.abs(before - level).max(axis=1).sum() / len(before)
    change = np.abs(after - before).max(axis=1).sum() / len(before)
    return bool(change >= max(VISIBLE, OVER_GROUND * deviation))


def _photographed(draws: Draws, image: NDArray[np.float64]) -> Bytes:
    """Exposure, uneven light and sensor noise, the same for whatever is in the picture."""
    y, x = pixel_grid(SIZE)
    c, s = direction(draws, 2.0)
    slope = (c * (x / (SIZE - 1) - 0.5) + s * (y / (SIZE - 1) - 0.5)) * draws.uniform(0.0, 0.14)
    light = draws.uniform(0.88, 1.0) * (1.0 + slope)
    grain = draws.uniform(1.0, 2.5)
    noise = (draws.units(SIZE, SIZE) + draws.units(SIZE, SIZE) - 1.0) * grain
    return np.clip(np.floor(image * light[..., None] + noise[..., None] + 0.5), 0.0, 255.0).astype(np.uint8)


def write_demo(cache_dir: Path) -> Path:
    """The data set's root below cache_dir; written on the first call (under 10 s, 24 MB), found on later ones.

    Written to a temporary folder and renamed at the end, so the root is complete whenever it exists and processes may
    race for it. A root that has lost files is made again. InputError where cache_dir cannot be written.
    """
    return _written(cache_dir / f"demo-v{VERSION}", _files())


def write_pooled_demo(cache_dir: Path) -> Path:
    """The same images as one pooled category, below the root that comes back: ``train/<class>`` with the normal images
    of each of nine classes, ``test/normal`` and ``test/anomaly`` with those of all, no masks. Otherwise `write_demo`.
    """
    return _written(cache_dir / f"demo-v{VERSION}-pooled", _pooled_files())


def _written(root: Path, files: Iterable[tuple[str, Bytes]]) -> Path:
    """The root, with all files in it."""
    cache_dir = root.parent
    if _complete(root):
        return root
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache_dir)
        work = cache_dir / f".{root.name}.{secrets.token_hex(8)}"
        work.mkdir()
        try:
            _write(work, files)
            _publish(work, root)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(f"the demo data cannot be written to {cache_dir} ({error}): set runtime.cache_dir.") from error
    return root


def _complete(root: Path) -> bool:
    """Whether the manifest is there and as many images as it counts."""
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        return bool(manifest["files"] == sum(1 for _ in root.rglob("*.png")))
    except (OSError, ValueError):
        return False


def _remove_abandoned(cache_dir: Path) -> None:
    for folder in cache_dir.glob(".demo-v*"):
        with suppress(FileNotFoundError):  # another process cleans up too
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _publish(work: Path, root: Path) -> None:
    """Give the finished folder its name, unless another process was faster; a damaged one there makes way."""
    if not _complete(root):
        damaged = work.with_name(f"{work.name}.damaged")
        with suppress(FileNotFoundError):
            root.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
    try:
        work.rename(root)
    except OSError:
        if not _complete(root):
            raise


def _write(root: Path, files: Iterable[tuple[str, Bytes]]) -> None:
    """All images and masks, and last the manifest."""
    digest, count = hashlib.sha256(), 0
    for path, pixels in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path, compress_level=3)  # the smallest here, and three times as fast as 6
        digest.update(pixels.tobytes())
        count += 1
    manifest = {"version": VERSION, "files": count, "sha256_of_pixels": digest.hexdigest()}
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _files() -> Iterator[tuple[str, Bytes]]:
    """Every file of the data set: path in MVTec layout and pixels, masks 0 and 255."""
    for category, defects in CATEGORIES.items():
        for index in range(REFERENCES):
            yield f"{category}/train/{GOOD}/{index:03d}.png", make_sample(category, GOOD, "train", index)[0]
        for index in range(GOOD_TESTS):
            yield f"{category}/test/{GOOD}/{index:03d}.png", make_sample(category, GOOD, "test", index)[0]
        for defect in defects:
            for index in range(DEFECT_TESTS):
                image, mask = make_sample(category, defect, "test", index)
                yield f"{category}/test/{defect}/{index:03d}.png", image
                yield f"{category}/ground_truth/{defect}/{index:03d}_mask.png", np.where(mask, 255, 0).astype(np.uint8)


def _pooled_files() -> Iterator[tuple[str, Bytes]]:
    """The images of all categories in one; of the defects the first few, so that they do not outnumber the others."""
    for category, defects in CATEGORIES.items():
        for index in range(REFERENCES):
            yield f"pooled/train/{category}/{index:03d}.png", make_sample(category, GOOD, "train", index)[0]
        for index in range(GOOD_TESTS):
            yield f"pooled/test/normal/{category}_{index:03d}.png", make_sample(category, GOOD, "test", index)[0]
        for defect in defects:
            for index in range(POOLED_DEFECT_TESTS):
                image = make_sample(category, defect, "test", index)[0]
                yield f"pooled/test/anomaly/{category}_{defect}_{index:03d}.png", image


def contact_sheet(root: Path, side: int = 120) -> Image.Image:
    """A picture of the data set: a column per category, its first normal image above one of each defect, outlined."""
    rows = 1 + max(map(len, CATEGORIES.values()))
    sheet = Image.new("RGB", (side * len(CATEGORIES), side * rows), "white")
    for column, (category, defects) in enumerate(CATEGORIES.items()):
        for row, defect in enumerate((GOOD, *defects)):
            pixels = np.array(Image.open(root / category / "test" / defect / "000.png"))
            if defect != GOOD:
                mask = np.array(Image.open(root / category / "ground_truth" / defect / "000_mask.png")) > 0
                grown = np.pad(mask, 2)
                near = np.any([grown[y : y + SIZE, x : x + SIZE] for y in range(5) for x in range(5)], axis=0)
                pixels[near & ~mask] = (255, 0, 0)
            thumbnail = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(thumbnail, (side * column, side * row))
    return sheet
