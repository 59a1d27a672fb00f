"""Which normal images the few-shot methods may look at."""

import csv
import hashlib
import io
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from winclip_bench.data.samples import Category, Sample
from winclip_bench.errors import InputError, printable
from winclip_bench.reading import LARGEST_LIST, read_bytes

SET_COLUMNS = ("dataset", "category", "k_shot", "image_stems")

Draw = Literal["without_replacement", "with_replacement", "first"]


def draw_references(
    train: Sequence[Sample], k: int, seed: int, category: str, draw: Draw = "without_replacement"
) -> tuple[Sample, ...]:
    """`k` training images, as a pure function of the category's name, its training files, `k` and `seed`.

    draw   first: of the files sorted by key, whatever the seed

    Draws are nested: the one of k images begins with the one of k − 1. Raises `InputError` where there are no
    training images, or, other than with replacement, fewer than `k`.
    """
    if k < 0:
        raise InputError(f"k_shot={k} is negative; set it to 0 or more")
    if k == 0:
        return ()
    if not train:
        raise InputError(
            f"category {category!r} has no training images, and k_shot={k} needs some; "
            f"add normal images to its train folder, name some with references.file, or set k_shot=0"
        )
    if k > len(train) and draw != "with_replacement":
        raise InputError(f"category {category!r} has {len(train)} training images; set k_shot={k} to at most that")

    candidates = sorted(train, key=lambda sample: sample.key)
    if draw == "first":
        return tuple(candidates[:k])
    purpose = f"references of {category} with seed {seed}"
    # Of random.Random only random() promises the same numbers in every version of Python.
    generator = random.Random(int.from_bytes(hashlib.sha256(purpose.encode("utf-8", "surrogateescape")).digest()))
    if draw == "with_replacement":
        return tuple(candidates[int(generator.random() * len(candidates))] for _ in range(k))
    return tuple(sorted(candidates, key=lambda _: generator.random())[:k])


def read_reference_file(path: Path, category: Category) -> tuple[Path, ...]:
    """The images that a text file names, one path a line, in its order; blank lines and ``#`` comments are skipped.

    A path is absolute, or relative to the folder of the file or to the category's folder, tried in this order. Raises
    `InputError` with the line's number for an image that is missing or is a test image of the category.
    """
    try:
        lines = read_bytes(path, LARGEST_LIST).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"references.file={path} cannot be read ({error}); name a text file of image paths") from error
    bases = [path.absolute().parent, *_category_folder(category)]
    test_images = {sample.image.resolve() for sample in category.test}
    references = []
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        found = next((base / entry for base in bases if _is_file(base / entry)), None)
        if found is None:
            looked = " or ".join(str(base) for base in bases)
            raise InputError(
                f"{path}, line {number}: there is no image {entry!r} (looked in {looked}); correct the path"
            )
        if found.resolve() in test_images:
            raise InputError(
                f"{path}, line {number}: {entry!r} is a test image of {category.name!r}; name another image"
            )
        references.append(found)
    if not references:
        raise InputError(f"references.file={path} names no image; write one path a line")
    return tuple(references)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than any file's, for example
        return False


def read_reference_sets(
    path: Path, dataset: str, k: int, categories: Sequence[Category]
) -> dict[str, tuple[Sample, ...]]:
    """The sets of `k` training images that a CSV names, by category; of categories that it names no set of k for, none.

    Columns are `dataset`, `category`, `k_shot` and `image_stems`: k file names without their endings, separated by
    spaces. Rows of other datasets, categories and k are skipped. Raises `InputError` with the line's number for a set
    of another size, a second one, and stems that belong to no training image, to several or to one named before.
    """
    by_name = {category.name: category for category in categories}
    sets: dict[str, tuple[Sample, ...]] = {}
    for row in _read_sets(path):
        if (row.dataset, row.k_shot) != (dataset, k) or row.category not in by_name:
            continue
        where = f"{path}, line {row.line}"
        if row.category in sets:
            raise InputError(f"{where}: a second set of {k} images for {row.category!r}; keep one of them")
        if len(row.stems) != k:
            raise InputError(f"{where}: {len(row.stems)} image stems where k_shot is {k}; correct one of them")
        if len(set(row.stems)) != k:
            twice = next(stem for stem in row.stems if row.stems.count(stem) > 1)
            raise InputError(f"{where}: the stem {twice!r} stands there twice; name {k} different images")
        sets[row.category] = tuple(_training_image(stem, by_name[row.category], where) for stem in row.stems)
    return sets


@dataclass(frozen=True)
class _Set:
    """A row of a CSV of sets, and the number of its line."""

    line: int
    dataset: str
    category: str
    k_shot: int
    stems: tuple[str, ...]


def _read_sets(path: Path) -> list[_Set]:
    sets = []
    try:
        text = io.StringIO(read_bytes(path, LARGEST_LIST).decode("utf-8-sig"), newline="")
        rows = csv.DictReader(text, strict=True)
        if absent := [column for column in SET_COLUMNS if column not in (rows.fieldnames or ())]:
            raise InputError(
                f"references.file={path} has no column {', '.join(absent)}; its first line must name the columns "
                f"{', '.join(SET_COLUMNS)}"
            )
        for row in rows:
            dataset, category, k_shot, stems = ((row[column] or "").strip() for column in SET_COLUMNS)
            if re.fullmatch("[0-9]{1,9}", k_shot) is None:
                raise InputError(f"{path}, line {rows.line_num}: k_shot is {k_shot!r}; set it to the number of images")
            sets.append(_Set(rows.line_num, dataset, category, int(k_shot), tuple(stems.split())))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"references.file={path} cannot be read ({printable(str(error))}); name a CSV of reference sets"
        ) from error
    return sets


def _training_image(stem: str, category: Category, where: str) -> Sample:
    """The one training image of that stem; `where` begins the sentence that says what else it is."""
    found = [sample for sample in category.train if PurePosixPath(sample.key).stem == stem]
    if len(found) == 1:
        return found[0]
    if found:
        keys = ", ".join(sample.key for sample in found)
        raise InputError(
            f"{where}: {stem!r} is the stem of several training images of {category.name!r} ({keys}); rename one"
        )
    if any(PurePosixPath(sample.key).stem == stem for sample in category.test):
        raise InputError(f"{where}: {stem!r} is a test image of {category.name!r}; name a training image")
    raise InputError(f"{where}: {category.name!r} has no training image {stem!r}; correct the stem")


def _category_folder(category: Category) -> list[Path]:
    """The folder that keys are relative to, as far as there is a sample to tell it from."""
    return [
        sample.image.parents[len(PurePosixPath(sample.key).parts) - 1] for sample in (*category.train, *category.test)
    ][:1]
