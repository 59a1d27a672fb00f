"""BTAD: as MVTec AD, with ``ok`` for good and ``ko`` for the one kind of defect; masks have the images' stems.

``01/{train/ok, test/{ok,ko}, ground_truth/ko}``; images are BMP and PNG files, masks PNG and, in ``03``, BMP.
"""

from pathlib import Path

from winclip_bench.data.layouts.listing import subfolders
from winclip_bench.data.layouts.mvtec import is_category, read_category
from winclip_bench.data.samples import Category


def btad(root: Path) -> list[Category]:
    """Every folder of `root` that has a ``test`` or a ``train`` folder, as a category."""
    return [read_category(folder, normal=("ok",)) for folder in subfolders(root) if is_category(folder)]
