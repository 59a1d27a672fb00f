"""Listing folders and pairing masks, the same way for every layout.

Lists come in no particular order: `open_dataset` sorts once, for all layouts.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from winclip_bench.errors import InputError

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder; hidden ones are left out, and a missing folder has none."""
    return [folder / entry.name for entry in _entries(folder) if entry.is_dir()]


def images(folder: Path) -> list[Path]:
    """The images in a folder, known by their ending in any case; hidden ones are left out.

    A link that leads nowhere is listed, so that reading it names it instead of passing over it in silence.
    """
    return [
        folder / entry.name
        for entry in _entries(folder)
        if Path(entry.name).suffix.lower() in IMAGE_ENDINGS and not entry.is_dir()
    ]


def pair_masks(image_paths: Iterable[Path], folder: Path) -> dict[Path, tuple[Path, ...]]:
    """The mask of each image: the file in `folder` whose stem is the image's with ``_mask``, or else the same stem.

    An image that no file or more than one file fits is left out. Stems are compared in one Unicode normal form,
    because archives packed on different systems spell the same name in different bytes.
    """
    by_stem: dict[str, list[Path]] = {}
    for mask in images(folder):
        by_stem.setdefault(_stem(mask), []).append(mask)
    pairs: dict[Path, tuple[Path, ...]] = {}
    for image in image_paths:
        stem = _stem(image)
        candidates = by_stem.get(f"{stem}_mask") or by_stem.get(stem, [])
        if len(candidates) == 1:
            pairs[image] = (candidates[0],)
    return pairs


def pair_mask_folders(image_paths: Iterable[Path], folder: Path) -> dict[Path, tuple[Path, ...]]:
    """The masks of each image where every image has a folder of them, called as its stem."""
    by_stem = {_normal_form(masks.name): masks for masks in subfolders(folder)}
    found = {image: images(by_stem[_stem(image)]) for image in image_paths if _stem(image) in by_stem}
    return {image: tuple(sorted(masks)) for image, masks in found.items() if masks}


def images_below(folder: Path) -> Iterator[Path]:
    """The images in a folder and in all its folders."""
    yield from images(folder)
    for below in subfolders(folder):
        if not below.is_symlink():  # a link may lead back up
            yield from images_below(below)


def _stem(path: Path) -> str:
    return _normal_form(path.stem)


def _normal_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); make it a folder that can be read") from error
