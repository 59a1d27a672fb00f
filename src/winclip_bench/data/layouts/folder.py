"""Plain folders: one category folder or a folder of categories, in MVTec layout or in its two looser relatives.

The relatives are ``test/{good,crack,…}`` without masks, perhaps without ``train``, and ``train/<class>`` (several
classes of normal parts) with a pooled ``test/{normal,anomaly}``.
"""

from pathlib import Path

from winclip_bench.data.layouts.listing import subfolders
from winclip_bench.data.layouts.mvtec import is_category, read_category
from winclip_bench.data.samples import GOOD, Category


def folder(root: Path) -> list[Category]:
    """`root` itself where it has a ``test`` or a ``train`` folder, otherwise its folders that have one."""
    found = [root] if is_category(root) else [path for path in subfolders(root) if is_category(path)]
    return [read_category(path, normal=(GOOD, "normal")) for path in found]
