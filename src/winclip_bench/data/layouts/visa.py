"""VisA, read in place through its official one-class split file.

``split_csv/1cls.csv`` has the columns object, split, label, image, mask, with paths from the root such as
``candle/Data/Images/Normal/0000.JPG`` and ``candle/Data/Masks/Anomaly/000.png``. Masks hold class codes.
"""

import csv
from dataclasses import replace
from pathlib import Path, PurePosixPath

from winclip_bench.data.layouts.listing import images
from winclip_bench.data.layouts.tabular import Entry, csv_rows, make_categories
from winclip_bench.data.samples import GOOD, Category
from winclip_bench.errors import InputError

_DEFECTS = {"normal": GOOD, "anomaly": "anomaly"}
_COLUMNS = ("object", "split", "label", "image", "mask")


def visa(root: Path) -> list[Category]:
    """The categories of the split file that are on disk; those without a folder are left out."""
    path = root / "split_csv" / "1cls.csv"
    try:
        reader = csv_rows(path)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"{path}: has no column {missing[0]!r}; use the official 1cls.csv of VisA")
        entries = [_entry(row, f"{path}, line {reader.line_num}") for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; put VisA's official split file there or correct dataset.root") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); use the official 1cls.csv of VisA") from error
    categories = make_categories(root, entries)
    return [_with_orphans(category, root) for category in categories if (root / category.name).is_dir()]


def _entry(row: dict[str, str | None], where: str) -> Entry:
    name, split, label, image, mask = ((row[column] or "").strip() for column in _COLUMNS)
    if split not in ("train", "test") or label not in _DEFECTS:
        raise InputError(f"{where}: expected split train or test and label normal or anomaly, not {split!r}, {label!r}")
    if (split, label) == ("train", "anomaly"):
        raise InputError(f"{where}: an anomalous training image; use the one-class split, 1cls.csv")
    if not name or not PurePosixPath(image).is_relative_to(name):
        raise InputError(f"{where}: the image path {image!r} does not begin with the object's folder {name!r}")
    return Entry(
        where=where,
        path=image,
        masks=(mask,) if mask and label == "anomaly" else (),
        category=name,
        split="train" if split == "train" else "test",
        defect=_DEFECTS[label],
    )


def _with_orphans(category: Category, root: Path) -> Category:
    used = {mask for sample in category.test for mask in sample.masks}
    orphans = [mask for mask in images(root / category.name / "Data/Masks/Anomaly") if mask not in used]
    return replace(category, has_masks=True, orphans=tuple(sorted(orphans)))
