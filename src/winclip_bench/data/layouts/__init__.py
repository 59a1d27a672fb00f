"""How datasets lie on disk: one small module per layout.

A layout is a function that takes the root folder and returns its categories, indexed but not read. To add one, write
that function in a file of its own here and name it in `LAYOUTS`.
"""

from collections.abc import Callable
from pathlib import Path

from winclip_bench.data.layouts.folder import folder
from winclip_bench.data.layouts.mvtec import mvtec
from winclip_bench.data.layouts.visa import visa
from winclip_bench.data.samples import Category

LAYOUTS: dict[str, Callable[[Path], list[Category]]] = {
    "folder": folder,
    "mvtec": mvtec,
    "visa": visa,
}
