"""MVTec AD 2, its public part: ``<category>/{train/good, test_public/{good,bad,ground_truth/bad/<stem>_mask.png}}``.

``test_private`` and ``test_private_mixed`` have no labels and are left out; ``validation/good`` is used for nothing.
"""

from pathlib import Path

from winclip_bench.data.layouts.listing import subfolders
from winclip_bench.data.layouts.mvtec import is_category, read_category
from winclip_bench.data.samples import GOOD, Category


def mvtec_ad_2(root: Path) -> list[Category]:
    """Every folder of `root` that has a ``test_public`` or a ``train`` folder, as a category."""
    return [
        read_category(folder, normal=(GOOD,), test="test_public", truth="test_public/ground_truth")
        for folder in subfolders(root)
        if is_category(folder, "test_public")
    ]
