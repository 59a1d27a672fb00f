"""How datasets lie on disk: one small module per layout.

A layout is a function that takes the root folder and returns its categories, indexed but not read. To add one, write
that function in a file of its own here and name it in `LAYOUTS`.
"""

from collections.abc import Callable
from pathlib import Path

from winclip_bench.data.layouts.btad import btad
from winclip_bench.data.layouts.folder import folder
from winclip_bench.data.layouts.kolektor_sdd2 import kolektor_sdd2
from winclip_bench.data.layouts.manifest import manifest
from winclip_bench.data.layouts.meta_json import meta_json
from winclip_bench.data.layouts.mvtec import mvtec
from winclip_bench.data.layouts.mvtec_ad_2 import mvtec_ad_2
from winclip_bench.data.layouts.mvtec_loco import mvtec_loco
from winclip_bench.data.layouts.visa import visa
from winclip_bench.data.samples import Category

LAYOUTS: dict[str, Callable[[Path], list[Category]]] = {
    "btad": btad,
    "folder": folder,
    "kolektor_sdd2": kolektor_sdd2,
    "manifest": manifest,
    "meta_json": meta_json,
    "mvtec": mvtec,
    "mvtec_ad_2": mvtec_ad_2,
    "mvtec_loco": mvtec_loco,
    "visa": visa,
}
