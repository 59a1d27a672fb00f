"""MVTec AD: ``<category>/{train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png}``.

MPDD and DTD-Synthetic lie on disk in the same way.
"""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from winclip_bench.data.layouts.listing import images, images_below, pair_masks, subfolders
from winclip_bench.data.samples import GOOD, Category, Sample


def mvtec(root: Path) -> list[Category]:
    """Every folder of `root` that has a ``test`` or a ``train`` folder, as a category."""
    return [read_category(folder, normal=(GOOD,)) for folder in subfolders(root) if is_category(folder)]


def is_category(folder: Path, test: str = "test") -> bool:
    """Whether a folder is laid out as one category."""
    return (folder / test).is_dir() or (folder / "train").is_dir()


def read_category(
    folder: Path,
    normal: Collection[str],
    test: str = "test",
    truth: str = "ground_truth",
    pair: Callable[[Iterable[Path], Path], dict[Path, tuple[Path, ...]]] = pair_masks,
) -> Category:
    """One category in MVTec layout or in one of its relatives.

    Training images are those of the normal folders in ``train``; where there are none, each folder is a class of
    normal parts. Without a folder of the ground truth the category has no masks.

    normal   names of the folders that hold normal images
    test     where the folders of test images are
    truth    where the folders of their masks are
    pair     finds the masks of some images in a folder
    """
    name = folder.name
    train_folders = subfolders(folder / "train")
    train_folders = [path for path in train_folders if path.name in normal] or train_folders
    train = [
        Sample(image, image.relative_to(folder).as_posix(), name, "train", GOOD)
        for train_folder in train_folders
        for image in images(train_folder)
    ]
    tested = []
    for test_folder in subfolders(folder / test):
        if test_folder == folder / truth:
            continue
        listed = images(test_folder)
        defect = GOOD if test_folder.name in normal else test_folder.name
        masks = pair(listed, folder / truth / test_folder.name)
        tested += [
            Sample(image, image.relative_to(folder).as_posix(), name, "test", defect, masks.get(image, ()))
            for image in listed
        ]
    orphans = set(images_below(folder / truth)).difference(*(sample.masks for sample in tested))
    has_masks = (folder / truth).is_dir()
    return Category(name, tuple(train), tuple(tested), has_masks, tuple(sorted(orphans)))
