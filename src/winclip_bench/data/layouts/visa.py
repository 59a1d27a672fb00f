"""VisA, read in place through its official one-class split file.

``split_csv/1cls.csv`` has the columns object, split, label, image, mask, with paths from the root such as
``candle/Data/Images/Normal/0000.JPG`` and ``candle/Data/Masks/Anomaly/000.png``. Masks hold class codes.
"""

import csv
from pathlib import Path, PurePosixPath

from winclip_bench.data.samples import GOOD, Category, Sample
from winclip_bench.errors import InputError

_DEFECTS = {"normal": GOOD, "anomaly": "anomaly"}
_COLUMNS = ("object", "split", "label", "image", "mask")


def visa(root: Path) -> list[Category]:
    """The categories of the split file that are on disk; those without a folder are left out."""
    path = root / "split_csv" / "1cls.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{path}: has no column {missing[0]!r}; use the official 1cls.csv of VisA")
            samples = [_sample(root, row, f"{path}, line {reader.line_num}") for row in reader]
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; put VisA's official split file there or correct dataset.root") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); use the official 1cls.csv of VisA") from error

    categories: dict[str, list[Sample]] = {}
    for sample in samples:
        categories.setdefault(sample.category, []).append(sample)
    return [
        Category(
            name,
            tuple(sample for sample in members if sample.split == "train"),
            tuple(sample for sample in members if sample.split == "test"),
        )
        for name, members in categories.items()
        if (root / name).is_dir()
    ]


def _sample(root: Path, row: dict[str, str | None], where: str) -> Sample:
    name, split, label, image, mask = ((row[column] or "").strip() for column in _COLUMNS)
    if split not in ("train", "test") or label not in _DEFECTS:
        raise InputError(f"{where}: expected split train or test and label normal or anomaly, not {split!r}, {label!r}")
    if (split, label) == ("train", "anomaly"):
        raise InputError(f"{where}: an anomalous training image; use the one-class split, 1cls.csv")
    if not name or not PurePosixPath(image).is_relative_to(name):
        raise InputError(f"{where}: the image path {image!r} does not begin with the object's folder {name!r}")
    return Sample(
        image=root / image,
        key=PurePosixPath(image).relative_to(name).as_posix(),
        category=name,
        split="train" if split == "train" else "test",
        defect=_DEFECTS[label],
        mask=root / mask if mask and label == "anomaly" else None,
    )
