"""Categories out of a table that names every file, the same way for every layout that has one.

A table comes from elsewhere and is not trusted: its paths stay within the root.
"""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from winclip_bench.data.samples import GOOD, Category, Sample, Split
from winclip_bench.errors import InputError
from winclip_bench.reading import LARGEST_LIST, check_regular, read_bytes


@dataclass(frozen=True)
class Entry:
    """One image of a table; paths as they stand there, from the root, with forward slashes.

    where   the place in the table, for messages
    """

    where: str
    path: str
    masks: tuple[str, ...]
    category: str
    split: Split
    defect: str


def read_table(path: Path) -> str:
    """The text of a table, in UTF-8 with or without a mark. Raises OSError, or ValueError where it is none."""
    check_regular(path)
    return read_bytes(path, LARGEST_LIST).decode("utf-8-sig")


def csv_rows(path: Path) -> "csv.DictReader[str]":
    """The rows of a table that is CSV; raises as `read_table`, and csv.Error while they are read."""
    return csv.DictReader(io.StringIO(read_table(path), newline=""), strict=True)


def make_categories(root: Path, entries: Iterable[Entry]) -> list[Category]:
    """The categories of all entries; one of which no anomalous image has a mask has no masks.

    Raises `InputError` naming the place of an anomalous training image, of a category without a name, and of a path
    that is empty, absolute or leads out of the root.
    """
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        if not entry.category:
            raise InputError(f"{entry.where}: the category has no name; give it one")
        if (entry.split, entry.defect == GOOD) == ("train", False):
            raise InputError(
                f"{entry.where}: an anomalous training image; training images are references, so take it out or "
                f"make it a test image"
            )
        members.setdefault(entry.category, []).append(entry)
    return [_category(root, name, listed) for name, listed in members.items()]


def inside(root: Path, path: str, where: str) -> Path:
    """A path from a table as one below `root`; links are followed as everywhere."""
    relative = PurePosixPath(path)
    try:
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    if not is_name or not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            f"{where}: the path {path!r} does not lead to a file in {root}; write it from there, without .."
        )
    return root / relative


def _category(root: Path, name: str, entries: list[Entry]) -> Category:
    # Keys are relative to the category's folder where there is one.
    has_folder = all(PurePosixPath(entry.path).is_relative_to(name) for entry in entries)
    samples = [
        Sample(
            image=inside(root, entry.path, entry.where),
            key=PurePosixPath(entry.path).relative_to(name if has_folder else ".").as_posix(),
            category=name,
            split=entry.split,
            defect=entry.defect,
            masks=tuple(inside(root, mask, entry.where) for mask in entry.masks),
        )
        for entry in entries
    ]
    test = tuple(sample for sample in samples if sample.split == "test")
    return Category(
        name,
        tuple(sample for sample in samples if sample.split == "train"),
        test,
        has_masks=any(sample.masks for sample in test if sample.label),
    )
