"""Unpacking archives that nobody here made: tar, also compressed, and zip."""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from winclip_bench.errors import InputError

_CHUNK = 1 << 20
_MAX_READ = 1 << 24  # no header of an honest tar comes near; tarfile reads headers of any size into memory
_OVERHEAD = 1 << 12  # per member of a tar: its header, extended headers, padding

_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
}


class _RefusedError(Exception):
    """Why an archive is not unpacked."""


@dataclass(frozen=True)
class _Member:
    """`kind` is ``file``, ``folder`` or the name of what is neither; `size` is the declared one in bytes."""

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def extract(
    archive: Path,
    folder: Path,
    max_bytes: int,
    max_members: int,
    advance: Callable[[int], object] = lambda count: None,
) -> int:
    """Unpack a tar (plain, xz, gz, bz2) or a zip into `folder`, which must not exist yet; returns the number of files.

    Only regular files and folders come out, with the usual permissions and times whatever the archive says. `advance`
    is told of every number of bytes written.

    Raises `InputError` for an archive that is damaged, holds links, devices or other special members, absolute paths,
    paths with ``..``, backslashes or unprintable characters, two members of one name, names that differ only in
    capitals or Unicode form, more than `max_bytes` of content by declaration or in fact, or more than `max_members`
    members; then `folder` holds what came before. A tar cut off between two members looks complete: check its sha256.
    """
    taken: dict[str, tuple[str, bool]] = {}
    count, files, total = 0, 0, 0
    try:
        folder.mkdir(parents=True)
        with closing(_members(archive, max_bytes, max_members)) as members:
            for member in members:
                count, total = count + 1, total + max(member.size, 0)
                if count > max_members:
                    raise _RefusedError(f"it has more than {max_members:,} members")
                if total > max_bytes:
                    raise _RefusedError(f"its content is larger than {max_bytes:,} bytes")
                path = _place(member, taken)
                if member.kind == "folder":
                    (folder / path).mkdir(parents=True, exist_ok=True)
                else:
                    (folder / path.parent).mkdir(parents=True, exist_ok=True)
                    _copy(member, folder / path, advance)
                    files += 1
    except _RefusedError as error:
        raise InputError(f"{archive} is not unpacked: {error}; replace it with the official archive") from error
    except Exception as error:  # decoders let through whatever a damaged file makes them stumble over
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise InputError(
            f"{archive} cannot be unpacked into {folder} ({reason}); make room and check permissions, "
            f"or replace it with the official archive if it is damaged"
        ) from error
    return files


def _members(archive: Path, max_bytes: int, max_members: int) -> Generator[_Member, None, None]:
    with archive.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"PK"):
            yield from _zip_members(file)
        else:
            yield from _tar_members(file, magic, max_bytes + (max_members + 1) * _OVERHEAD)


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = "folder" if info.is_dir() else "file"
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            if mode not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
                kind = "symbolic link" if mode == stat.S_IFLNK else "special file"
            yield _Member(info.filename, kind, info.file_size, partial(archive.open, info))


def _tar_members(file: BinaryIO, magic: bytes, limit: int) -> Iterator[_Member]:
    stream = next((decompress(file) for begin, decompress in _COMPRESSED.items() if magic.startswith(begin)), file)
    with tarfile.open(fileobj=cast(IO[bytes], _Bounded(stream, limit)), mode="r:") as archive:
        for info in archive:
            yield _Member(info.name, _tar_kind(info), info.size, partial(archive.extractfile, info))


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    if info.issym():
        return "symbolic link"
    if info.islnk():
        return "hard link"
    if info.isdev():  # pipes included
        return "device"
    return "file" if info.isreg() and not info.issparse() else "special file"


class _Bounded:
    """What tarfile needs of a stream; reading beyond `limit` or much at once is refused."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise _RefusedError(f"it has a header of {size:,} bytes")
        self._check(self.tell() + size)
        return self._stream.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._stream.seek(offset)

    def _check(self, offset: int) -> None:
        if offset > self._limit + _MAX_READ:
            raise _RefusedError(f"it unpacks to more than {self._limit:,} bytes")


def _place(member: _Member, taken: dict[str, tuple[str, bool]]) -> PurePosixPath:
    """Where a member goes below the folder; `taken` remembers every path so far, folded, with its spelling and whether
    it is a folder."""
    path = PurePosixPath(member.name)
    if member.kind not in ("file", "folder"):
        raise _RefusedError(f"its member {member.name!r} is a {member.kind}")
    if path.is_absolute() or re.match("[A-Za-z]:", member.name):
        raise _RefusedError(f"the path of its member {member.name!r} is absolute")
    if ".." in path.parts:
        raise _RefusedError(f"the path of its member {member.name!r} leads out of the folder")
    if "\\" in member.name or not member.name.isprintable() or (member.kind == "file" and not path.name):
        raise _RefusedError(f"the name of its member {member.name!r} is not a path")
    if member.size < 0:
        raise _RefusedError(f"its member {member.name!r} has a negative size")
    for step in [*reversed(path.parents), path]:
        key = unicodedata.normalize("NFC", str(step)).casefold()
        entry = (str(step), step != path or member.kind == "folder")
        if taken.get(key, entry) != entry or (key in taken and not entry[1]):
            raise _RefusedError(f"its member {member.name!r} has the place of {taken[key][0]!r}")
        taken[key] = entry
    return path


def _copy(member: _Member, path: Path, advance: Callable[[int], object]) -> None:
    source = member.open()
    assert source is not None  # a regular file
    left = member.size
    with source, path.open("xb") as target:
        while chunk := source.read(min(_CHUNK, left + 1)):
            left -= len(chunk)
            if left < 0:
                break
            target.write(chunk)
            advance(len(chunk))
    if left:
        raise _RefusedError(f"its member {member.name!r} has another size than it declares")
