"""MVTec AD: ``<category>/{train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png}``."""

from pathlib import Path

from winclip_bench.data.layouts.listing import images, pair_masks, subfolders
from winclip_bench.data.samples import GOOD, Category, Sample


def mvtec(root: Path) -> list[Category]:
    """Every folder of `root` that has a ``test`` or a ``train`` folder, as a category."""
    return [read_category(folder, normal=(GOOD,)) for folder in subfolders(root) if is_category(folder)]


def is_category(folder: Path) -> bool:
    """Whether a folder is laid out as one category."""
    return (folder / "test").is_dir() or (folder / "train").is_dir()


def read_category(folder: Path, normal: tuple[str, ...]) -> Category:
    """One category in MVTec layout; folders whose name is in `normal` hold normal images.

    Training images are those of the normal folders in ``train``; where there are none, each folder is a class of
    normal parts. Without a ``ground_truth`` folder the category has no masks.
    """
    name = folder.name
    truth = folder / "ground_truth"
    train_folders = subfolders(folder / "train")
    train_folders = [path for path in train_folders if path.name in normal] or train_folders
    train = [
        Sample(image, image.relative_to(folder).as_posix(), name, "train", GOOD)
        for train_folder in train_folders
        for image in images(train_folder)
    ]
    test = []
    for test_folder in subfolders(folder / "test"):
        listed = images(test_folder)
        defect = GOOD if test_folder.name in normal else test_folder.name
        masks = {} if defect == GOOD else pair_masks(listed, truth / test_folder.name)
        test += [
            Sample(image, image.relative_to(folder).as_posix(), name, "test", defect, masks.get(image))
            for image in listed
        ]
    return Category(name, tuple(train), tuple(test), has_masks=truth.is_dir())
