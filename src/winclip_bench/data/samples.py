"""What a dataset is to everything else: categories of samples, in a fixed order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "test"]
GOOD = "good"


@dataclass(frozen=True)
class Sample:
    """One image of a category.

    key     path of the image relative to its category's folder, with forward slashes; unique in the category
    defect  ``good`` for a normal image, otherwise the name of the defect type
    masks   files of a test image's ground truth, whose union counts; none where the dataset has none. A normal image
            may have some too: they should be empty, and no number depends on them
    """

    image: Path
    key: str
    category: str
    split: Split
    defect: str
    masks: tuple[Path, ...] = ()

    @property
    def label(self) -> int:
        """0 for normal, 1 for anomalous."""
        return int(self.defect != GOOD)


@dataclass(frozen=True)
class Category:
    """The samples of one category, each split sorted by key, whatever order the file system lists them in.

    has_masks  False where the dataset carries no ground truth at all for this category: image metrics only
    orphans    files of the ground truth that belong to no test image
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    has_masks: bool = True
    orphans: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """All categories found under one root, sorted by name."""

    name: str
    root: Path
    categories: tuple[Category, ...]
