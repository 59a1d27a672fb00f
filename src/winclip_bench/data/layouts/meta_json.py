"""``meta.json`` as AnomalyCLIP and its relatives write it beside the data.

``{"train": {<category>: [entry, …]}, "test": {…}}``, where an entry has ``img_path``, ``mask_path`` (empty without
one), ``cls_name``, ``specie_name`` (the defect, may be empty) and ``anomaly`` (0 or 1); paths are from the root.
Other parts than train and test are left out. Their scripts pair masks by position in a sorted list, so that a file
made where one mask was missing is wrong: the check compares stems.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from winclip_bench.data.layouts.tabular import Entry, make_categories, read_table
from winclip_bench.data.samples import GOOD, Category, Split
from winclip_bench.errors import InputError
from winclip_bench.reading import parse_json

_SPLITS: tuple[Split, ...] = ("train", "test")


def meta_json(root: Path) -> list[Category]:
    """The categories that ``<root>/meta.json`` lists. Raises `InputError` where it is missing or of another kind."""
    path = root / "meta.json"
    try:
        content = parse_json(read_table(path))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; put the list of the images there or choose another layout") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); write it anew") from error
    if not isinstance(content, dict) or not isinstance(content.get("test"), dict):
        raise InputError(f"{path}: has no object 'test' of categories; write it as AnomalyCLIP does")
    return make_categories(root, _entries(root, path, content))


def _entries(root: Path, path: Path, content: dict[str, Any]) -> Iterator[Entry]:
    for split in _SPLITS:
        listed = content.get(split, {})
        if not isinstance(listed, dict) or not all(isinstance(members, list) for members in listed.values()):
            raise InputError(f"{path}: {split} is no object of lists by category; write it as AnomalyCLIP does")
        for category, members in listed.items():
            for number, member in enumerate(members):
                yield _entry(root, member, category, split, f"{path}, {split}, {category!r}, entry {number}")


def _entry(root: Path, member: Any, category: str, split: Split, where: str) -> Entry:
    if not isinstance(member, dict):
        raise InputError(f"{where}: is no object; write it as AnomalyCLIP does")
    image, anomaly = member.get("img_path"), member.get("anomaly")
    mask, specie = member.get("mask_path") or "", member.get("specie_name") or ""
    masks = mask if isinstance(mask, list) else [mask] if mask else []
    if not all(isinstance(text, str) for text in (image, specie, *masks)):
        raise InputError(f"{where}: img_path, mask_path and specie_name must be text; write it as AnomalyCLIP does")
    if anomaly not in (0, 1):
        raise InputError(f"{where}: anomaly must be 0 or 1, not {anomaly!r}")
    if anomaly and specie == GOOD:
        raise InputError(f"{where}: anomaly is 1 and specie_name {GOOD!r}; correct one of them")
    masks = [name for name in masks if not name.endswith("/")]  # a folder stands for no mask
    return Entry(where, str(image), tuple(masks), category, split, (specie or "anomaly") if anomaly else GOOD)
