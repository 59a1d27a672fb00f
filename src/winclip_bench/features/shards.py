"""Arrays on disk, in shards that are written once and never changed.

A folder holds one kind of array. A shard is `<name>.npy`, which can be memory-mapped, and its manifest
`<name>.json`, written last: which items the rows belong to, and a digest over that and the array's bytes. Names are
made from content, files appear under their name complete or not at all, and nobody holds a lock: two writers of one
shard write the same thing twice.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from winclip_bench.reading import check_regular, parse_json, read_bytes
from winclip_bench.records import write_atomically

log = logging.getLogger(__name__)

_FORMAT = 1
_LARGEST_MANIFEST = 64 * 2**20  # bytes


class _DamagedError(Exception):
    """What is wrong with a shard, as a clause."""


@dataclass(frozen=True)
class Item:
    """What one item of a shard is: its key, how many rows it has, and anything else that has to be known about it."""

    key: str
    rows: int
    about: Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """Where an item's rows are."""

    manifest: Path
    start: int
    stop: int
    about: Mapping[str, Any]


class Shards:
    """One kind of array in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, _Place] = {}
        self._seen: set[str] = set()
        self._arrays: dict[Path, NDArray[Any]] = {}
        self._verified: set[Path] = set()

    def find(self, keys: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """What is known about those of the keys that are stored; their bytes have been verified.

        A shard that is damaged is reported with a line, deleted where that is possible, and counts as not stored.
        """
        wanted = set(keys)
        if not wanted <= self._places.keys():
            self._read_new_manifests()
        for manifest in {self._places[key].manifest for key in wanted & self._places.keys()}:
            self._open(manifest)
        return {key: self._places[key].about for key in wanted & self._places.keys()}

    def rows(self, key: str) -> NDArray[Any]:
        """The rows of an item that `find` has found, memory-mapped and read-only; KeyError for others."""
        place = self._places[key]
        self._open(place.manifest)
        return self._arrays[place.manifest][place.start : place.stop]

    def write(self, items: Sequence[Item], array: NDArray[Any]) -> None:
        """Store a shard: the rows of the items, one after the other. Raises InputError if the disk refuses."""
        data = np.ascontiguousarray(array)
        if sum(item.rows for item in items) != len(data):
            raise ValueError(f"{len(data)} rows for items of {sum(item.rows for item in items)}")
        listed = [{"key": item.key, "rows": item.rows, "about": item.about} for item in items]
        name = _digest(listed, data)  # so that whoever has encoded the same images otherwise does not overwrite this
        manifest = {
            "format": _FORMAT,
            "folder": _place(self.folder),
            "items": listed,
            "dtype": data.dtype.str,
            "shape": list(data.shape),
            "digest": name,
        }
        write_atomically(self.folder / f"{name}.npy", lambda file: _save(file, data))
        write_atomically(self.folder / f"{name}.json", json.dumps(manifest).encode())
        self._seen.discard(f"{name}.json")

    def close(self) -> None:
        """Let go of the files, of which a process may have only so many open; `find` opens them again."""
        self._arrays.clear()

    def manifests(self) -> list[Path]:
        """All manifests, sorted."""
        try:
            return sorted(path for path in self.folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
        except OSError:
            return []

    def keys(self) -> set[str]:
        """Of all items of manifests that can be read."""
        keys: set[str] = set()
        for manifest in self.manifests():
            with suppress(OSError, _DamagedError):
                keys.update(item["key"] for item in _read_manifest(manifest)["items"])
        return keys

    def verify(self) -> list[str]:
        """Read everything; one line per damaged shard. Nothing is deleted."""
        faults = []
        for manifest in self.manifests():
            try:
                _open_verified(manifest)
            except (OSError, _DamagedError) as error:
                if manifest.exists() or manifest.is_symlink():  # else another process has evicted it meanwhile
                    faults.append(f"{manifest.with_suffix('.npy')}: {_reason(error)}")
        return faults

    def _read_new_manifests(self) -> None:
        for path in self.manifests():
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            try:
                content = _read_manifest(path)
            except (OSError, _DamagedError) as error:
                self._give_up(path, error)
                continue
            start = 0
            for item in content["items"]:
                stop = start + item["rows"]
                # What has been read of a key must not change under the reader because it is stored once more.
                self._places.setdefault(item["key"], _Place(path, start, stop, item["about"]))
                start = stop

    def _open(self, manifest: Path) -> None:
        """Map a shard's array, verified when it is first opened, or forget the shard."""
        if manifest in self._arrays:
            return
        try:
            verified = manifest in self._verified
            self._arrays[manifest] = _open_array(manifest) if verified else _open_verified(manifest)
            self._verified.add(manifest)
        except (OSError, _DamagedError) as error:
            self._give_up(manifest, error)

    def _give_up(self, manifest: Path, error: OSError | _DamagedError) -> None:
        """Report a shard and pass it over from now on. Only what is damaged is deleted: what cannot be read may be
        whole, and another user's."""
        array = manifest.with_suffix(".npy")
        log.warning("%s cannot be used (%s); its features are computed again", array, _reason(error))
        self._places = {key: place for key, place in self._places.items() if place.manifest != manifest}
        self._verified.discard(manifest)
        spoilt = [manifest, array] if isinstance(error, _DamagedError) else []
        if isinstance(error, FileNotFoundError):
            spoilt = [manifest]  # an array that is there again by now has been written by another process
        for path in spoilt:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _save(file: BinaryIO, array: NDArray[Any]) -> None:
    """As np.save, which on a full disk does not say that it is full."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    file.write(array.reshape(-1).view(np.uint8).data)


def _place(folder: Path) -> str:
    """Which model and kind of array a folder is for, so that a shard in the wrong one is noticed."""
    return f"{folder.parent.name}/{folder.name}"


def _reason(error: OSError | _DamagedError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is gone"
    return (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error)


def _digest(items: Sequence[Mapping[str, Any]], array: NDArray[Any]) -> str:
    digest = xxhash.xxh3_128(json.dumps(items, sort_keys=True).encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose values are what they should be; raises _DamagedError or OSError."""
    check_regular(path)
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise _DamagedError("its manifest is too large")
    try:
        content = parse_json(read_bytes(path, _LARGEST_MANIFEST))
        if content["format"] != _FORMAT:
            raise _DamagedError(f"its format is {str(content['format'])[:20]!r}")
        if content.get("folder", _place(path.parent)) != _place(path.parent):  # older ones do not say
            raise _DamagedError(f"it was written for {str(content['folder'])[:60]!r}")
        rows = [item["rows"] for item in content["items"]]
        shape = content["shape"]
        well_formed = (
            all(isinstance(item["key"], str) and isinstance(item["about"], dict) for item in content["items"])
            and all(type(size) is int and size >= 0 for size in [*rows, *shape])
            and isinstance(content["dtype"], str)
            and isinstance(content["digest"], str)
        )
        if not well_formed or not shape or sum(rows) != shape[0]:
            raise _DamagedError("its manifest contradicts itself")
    except (ValueError, KeyError, TypeError) as error:
        raise _DamagedError("its manifest is not one") from error
    return dict(content)


def _open_array(manifest: Path) -> NDArray[Any]:
    """A shard's memory-mapped array; raises _DamagedError or OSError."""
    array = manifest.with_suffix(".npy")
    try:
        check_regular(array)
        return np.lib.format.open_memmap(array, mode="r")
    except OSError:
        raise
    except Exception as error:  # what a damaged header makes numpy stumble over is not documented
        raise _DamagedError("it is not an array") from error


def _is_plain(array: NDArray[Any]) -> bool:
    """Whether it is laid out as `_save` does, and holds numbers."""
    return array.flags.c_contiguous and array.dtype.kind == "f"


def _open_verified(manifest: Path) -> NDArray[Any]:
    """A shard's memory-mapped array, every byte as it was written; raises _DamagedError or OSError."""
    content = _read_manifest(manifest)
    array = _open_array(manifest)
    if array.dtype.str != content["dtype"] or list(array.shape) != content["shape"] or not _is_plain(array):
        raise _DamagedError("its shape is not the one in its manifest")
    if _digest(content["items"], array) != content["digest"]:
        raise _DamagedError("its bytes have changed")
    return array
