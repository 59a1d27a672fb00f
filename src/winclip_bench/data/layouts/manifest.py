"""A CSV file ``manifest.csv`` in the root that names every image.

Columns, in any order, others are ignored:

path      the image, from the root, with forward slashes
split     ``train`` or ``test``
label     ``normal`` or ``anomalous``; also 0 or 1, ``good`` or ``anomaly``
mask      the mask, likewise, or empty; the column may be missing
category  by default the name of the root
defect    the kind of defect of an anomalous image, by default ``anomaly``
"""

import csv
from pathlib import Path

from winclip_bench.data.layouts.tabular import Entry, csv_rows, make_categories
from winclip_bench.data.samples import GOOD, Category
from winclip_bench.errors import InputError

_NAME = "manifest.csv"
_REQUIRED = ("path", "split", "label")
_IS_ANOMALOUS = {"normal": False, "good": False, "0": False, "anomalous": True, "anomaly": True, "1": True}


def manifest(root: Path) -> list[Category]:
    """The categories that the manifest lists. Raises `InputError` where it is missing, and with the line of a fault."""
    path = root / _NAME
    try:
        reader = csv_rows(path)
        missing = [column for column in _REQUIRED if column not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f"{path}: has no column {missing[0]!r}; it needs {', '.join(_REQUIRED)}")
        entries = [_entry(root, row, f"{path}, line {reader.line_num}") for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; write the list of the images there or choose another layout") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as CSV in UTF-8") from error
    return make_categories(root, entries)


def _entry(root: Path, row: dict[str, str | None], where: str) -> Entry:
    path, split, label, mask, category, defect = (
        (row.get(column) or "").strip() for column in ("path", "split", "label", "mask", "category", "defect")
    )
    if split not in ("train", "test") or label.lower() not in _IS_ANOMALOUS:
        raise InputError(
            f"{where}: expected split train or test and label normal or anomalous, not {split!r}, {label!r}"
        )
    anomalous = _IS_ANOMALOUS[label.lower()]
    if anomalous and defect == GOOD:
        raise InputError(f"{where}: the label is {label!r} and the defect {GOOD!r}; correct one of them")
    return Entry(
        where=where,
        path=path,
        masks=(mask,) if mask else (),
        category=category or root.name,
        split="train" if split == "train" else "test",
        defect=(defect or "anomaly") if anomalous else GOOD,
    )
