"""What a dataset contains, as sha256: of every file, of every category and of the whole."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from winclip_bench.data.samples import Dataset, Sample
from winclip_bench.errors import InputError
from winclip_bench.files import check_plain

UNREADABLE = "unreadable"

_CACHE_NAME = "file-digests.json"
# A file may change again within one tick of the file system's clock, and nothing but its bytes would show it.
_TOO_YOUNG_NS = 2_000_000_000

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True)
class Digests:
    """Digests in lower-case hexadecimal.

    dataset     of all lines below, sorted
    categories  by name, of the category's lines: (category, key, split, defect, sha256 of image, sha256 of mask); of
                several masks a list, and null for a normal image, whose masks change no number
    files       by path as the samples have it, of the bytes; ``unreadable`` for a file that cannot be read, which is
                left to whoever uses that file to report
    """

    dataset: str
    categories: dict[str, str]
    files: dict[Path, str]


def content_digests(dataset: Dataset, cache_dir: Path | None = None, workers: int = 2) -> Digests:
    """Digests of a dataset's content: they know labels and bytes, but not where the files lie or when they changed.

    Files are hashed on `workers` threads. With `cache_dir`, a file of unchanged size, times and inode is not read
    again; a cache that is broken or cannot be written is done without.
    """
    samples = [sample for category in dataset.categories for sample in (*category.train, *category.test)]
    paths = {path for sample in samples for path in (sample.image, *_masks(sample))}
    files = _file_digests(sorted(paths), cache_dir, workers)
    lines: dict[str, list[str]] = {category.name: [] for category in dataset.categories}
    for sample in samples:
        masks = [files[mask] for mask in _masks(sample)]
        truth = masks if len(masks) > 1 else masks[0] if masks else None
        row = [sample.category, sample.key, sample.split, sample.defect, files[sample.image], truth]
        lines[sample.category].append(json.dumps(row))
    return Digests(
        dataset=_digest_of_lines(line for members in lines.values() for line in members),
        categories={name: _digest_of_lines(members) for name, members in lines.items()},
        files=files,
    )


def _masks(sample: Sample) -> tuple[Path, ...]:
    return sample.masks if sample.label else ()


def _digest_of_lines(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _file_digests(paths: list[Path], cache_dir: Path | None, workers: int) -> dict[Path, str]:
    known = {} if cache_dir is None else _read_cache(cache_dir / _CACHE_NAME)
    fresh: dict[str, tuple[Stamp, str]] = {}

    def digest(path: Path) -> str:
        try:
            stamp = _stamp(path)
            remembered = known.get(str(path))
            if remembered is not None and remembered[0] == stamp:
                return remembered[1]
            found = file_sha256(path)
            settled = stamp[2] < time.time_ns() - _TOO_YOUNG_NS
            if settled and _stamp(path) == stamp:  # otherwise it may have changed while it was read
                fresh[str(path)] = (stamp, found)
        except OSError:
            return UNREADABLE
        return found

    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="digest") as pool:
        files = dict(zip(paths, pool.map(digest, paths), strict=True))
    if cache_dir is not None and fresh:
        _write_cache(cache_dir / _CACHE_NAME, fresh)
    return files


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes, lower-case hexadecimal; raises OSError."""
    check_plain(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(path: Path, sha256: str) -> None:
    """Raise InputError where a file is no longer what was hashed, so that nothing passes for what it is not."""
    try:
        same = file_sha256(path) == sha256
    except OSError:
        same = False
    if not same:
        raise InputError(f"{path} has changed since the run began; run the same command again")


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _read_cache(path: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        check_plain(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["check"] != _check(content["files"]):
            return {}  # one flipped bit in a digest would pass for another dataset
        return {
            name: ((int(size), int(mtime), int(ctime), int(inode)), str(sha256))
            for name, [size, mtime, ctime, inode, sha256] in content["files"].items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _check(files: object) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _write_cache(path: Path, fresh: dict[str, tuple[Stamp, str]]) -> None:
    """Add to what other runs have written meanwhile; the file is whole at every moment."""
    entries = _read_cache(path) | fresh
    files = {name: [*stamp, sha256] for name, (stamp, sha256) in sorted(entries.items())}
    text = json.dumps({"check": _check(files), "files": files}, indent=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError:
        pass  # remembering saves time and nothing else
