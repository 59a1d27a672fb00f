"""Features of images and prompts by content.

`<cache_dir>/features/<model key>/<kind>/` holds one kind of array per image tile: `image`, `patches`, `windows-<side>`;
`<cache_dir>/features/<text key>/prompts/` one embedding per prompt. A model key is made from everything that changes a
feature and nothing else; `model.json` beside the arrays says what that was.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winclip_bench.errors import InputError
from winclip_bench.features.shards import Item, Shards
from winclip_bench.records import write_atomically

log = logging.getLogger(__name__)

DESCRIPTION = "model.json"  # beside the arrays; when it was last changed is when they were last used

_refused: set[Path] = set()  # folders that could not be written to, which was said

# Raise it with every change that moves a feature by more than rounding.
ENCODER_VERSION = 1


@dataclass(frozen=True)
class Geometry:
    """Where an image's tiles lie: (top, left) corners in the resized image, its (height, width), and the original
    (width, height)."""

    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    original_size: tuple[int, int]

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Geometry":
        """From what a manifest says; raises ValueError, TypeError or KeyError where it says something else."""
        corners = tuple((int(top), int(left)) for top, left in about["corners"])
        height, width = about["size"]
        original_width, original_height = about["original_size"]
        return cls(corners, (int(height), int(width)), (int(original_width), int(original_height)))


def model_key(content: Mapping[str, Any]) -> str:
    """Name of a folder of features: 16 hex digits of the sha256 over what the features depend on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class FeatureStore:
    """Arrays of one model and preprocessing; without a folder it keeps them in memory.

    What `rows` returns is always what was stored, in the dtype of the store, whether it has just been computed or
    was read. A disk that refuses costs one warning and the cache, never a result.

    dtype   float32, or float16 for features that were computed in half precision
    """

    def __init__(self, folder: Path | None, content: Mapping[str, Any], dtype: type = np.float32) -> None:
        self._folder = None if folder is None else folder / "features" / model_key(content)
        self._content = dict(content)
        self._dtype = dtype
        self._kinds: dict[str, Shards] = {}
        self._memory: dict[tuple[str, str], tuple[NDArray[Any], Mapping[str, Any]]] = {}
        self._marked = False

    def missing(self, kinds: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
        """kind -> the keys, in their order and once each, that have to be computed; kinds without any are left out."""
        unique = list(dict.fromkeys(keys))
        absent = {}
        for kind in kinds:
            found = self._found(kind, unique)
            absent[kind] = [key for key in unique if key not in found]
        return {kind: lacking for kind, lacking in absent.items() if lacking}

    def rows(self, kind: str, key: str) -> NDArray[Any]:
        """The rows of a key that is not missing; one row per tile of an image."""
        if (kind, key) in self._memory:
            return self._memory[kind, key][0]
        return self._shards(kind).rows(key)

    def about(self, kind: str, key: str) -> Mapping[str, Any]:
        """What was stored with a key that is not missing."""
        return self._found(kind, [key])[key]

    def add(self, kind: str, items: Sequence[Item], array: NDArray[Any]) -> None:
        """Store the rows of some items."""
        array = np.ascontiguousarray(array.astype(self._dtype))
        if self._folder is not None:
            try:
                self._describe()
                self._shards(kind).write(items, array)
                if self._found(kind, [item.key for item in items]).keys() >= {item.key for item in items}:
                    return
            except (InputError, OSError) as error:
                if self._folder.parent not in _refused:
                    log.warning("features are not kept on disk from here on: %s", error)
                    _refused.add(self._folder.parent)
                self._folder = None
        start = 0
        for item in items:
            self._memory[kind, item.key] = array[start : start + item.rows], item.about
            start += item.rows

    def forget(self) -> None:
        """Drop what is kept in memory, and close what is on disk."""
        self._memory.clear()
        for shards in self._kinds.values():
            shards.close()

    def _found(self, kind: str, keys: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        wanted = set(keys)
        found = {key: self._memory[kind, key][1] for key in wanted if (kind, key) in self._memory}
        if self._folder is not None or kind in self._kinds:
            on_disk = self._shards(kind).find(wanted - found.keys())
            found |= on_disk
            if on_disk and not self._marked:
                self._mark_as_used()
        return found

    def _shards(self, kind: str) -> Shards:
        if kind not in self._kinds:
            if self._folder is None:
                raise KeyError(kind)
            self._kinds[kind] = Shards(self._folder / kind)
        return self._kinds[kind]

    def _mark_as_used(self) -> None:
        self._marked = True
        if self._folder is not None:
            with suppress(OSError):
                os.utime(self._folder / DESCRIPTION)

    def _describe(self) -> None:
        assert self._folder is not None
        path = self._folder / DESCRIPTION
        if not path.exists():
            write_atomically(path, json.dumps(self._content, indent=2, sort_keys=True).encode())
