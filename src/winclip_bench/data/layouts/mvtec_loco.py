"""MVTec LOCO AD: ``<category>/{train/good, test/<kind>, ground_truth/<kind>/<stem>/<number>.png}``.

The kinds are ``good``, ``logical_anomalies`` and ``structural_anomalies``. An image has one mask for each place where
something is wrong or may be missing, and their union counts. ``validation/good`` is used for nothing.
"""

from pathlib import Path

from winclip_bench.data.layouts.listing import pair_mask_folders, subfolders
from winclip_bench.data.layouts.mvtec import is_category, read_category
from winclip_bench.data.samples import GOOD, Category


def mvtec_loco(root: Path) -> list[Category]:
    """Every folder of `root` that has a ``test`` or a ``train`` folder, as a category."""
    return [
        read_category(folder, normal=(GOOD,), pair=pair_mask_folders)
        for folder in subfolders(root)
        if is_category(folder)
    ]
