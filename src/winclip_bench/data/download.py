"""Getting the public datasets: `python -m winclip_bench.data download mvtec|visa`.

Where they lie, what they weigh and under which licence they come stands in ``sources/*.yaml``. Everything unfinished
is in one hidden folder beside the dataset's, so that the same command continues after an interruption at any point;
the dataset's own folder appears, whole, in the last step.
"""

import argparse
import fcntl
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from winclip_bench import __version__
from winclip_bench.data.archives import extract
from winclip_bench.data.digests import file_sha256
from winclip_bench.errors import InputError, printable

TIMEOUT = 60.0  # seconds without a byte

_CHUNK = 1 << 18
_MAX_ANSWERS = 50  # of one address, each of which brought something and broke off


@dataclass(frozen=True)
class Source:
    """One archive and what has to come out of it.

    page          the official page, for those who download by hand
    file          the archive's name
    size, sha256  of the archive, in bytes and lower-case hexadecimal
    addresses     in the order in which they are tried
    max_bytes     how much the archive may unpack to
    max_members   how many files and folders it may hold
    folders       relative paths of folders that it must hold
    files         relative paths of files that it should hold, with their sha256
    """

    title: str
    page: str
    file: str
    size: int
    sha256: str
    addresses: tuple[str, ...]
    licence: str
    licence_page: str
    terms: str
    max_bytes: int
    max_members: int
    folders: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)


class _UnservedError(Exception):
    """What an address did instead of serving the archive, as the words that follow its name."""


def source_names() -> list[str]:
    """The datasets that can be downloaded.

    >>> source_names()
    ['mvtec', 'visa']
    """
    folder = resources.files("winclip_bench.data") / "sources"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_source(name: str) -> Source:
    """Where to get a dataset.

    >>> read_source("visa").size
    1929840640
    """
    path = resources.files("winclip_bench.data") / "sources" / f"{name}.yaml"
    return parse_source(yaml.safe_load(path.read_text(encoding="utf-8")))


def parse_source(content: Mapping[str, Any]) -> Source:
    """A source from the fields of its file."""
    lists = {key: tuple(content[key]) for key in ("addresses", "folders")}
    return Source(**{**content, **lists})


def download(source: Source, target: Path, archive: Path | None = None, keep_archive: bool = False) -> int:
    """Get a dataset into the folder `target`, which must not exist yet; returns the number of files in it.

    archive       one that is already there; it is checked, used and left alone. None: the one that lies beside
                  `target` under its official name if there is one, otherwise it is downloaded
    keep_archive  leave a downloaded archive beside `target`

    Raises `InputError` that says what to do; `target` is then untouched.
    """
    beside = target.parent / source.file
    if archive is None and beside.exists():
        archive = beside
    if archive is not None:
        _check_archive(source, archive)
    with _workplace(target) as work:
        part = work / f"{source.file}.part"
        _check_space(source, work, 0 if archive else source.size - _size(part))
        if archive is None:
            fetch(source, part, beside)
        files = _unpack(source, archive or part, work / "unpacked")
        if os.path.lexists(target):  # renaming would replace an empty folder
            raise InputError(f"{target} has appeared meanwhile and is left alone; take it away and run this again")
        if archive is None and keep_archive:
            part.replace(beside)
        os.sync()  # a folder that has its name is complete, even if the power fails now
        (work / "unpacked").rename(target)
        shutil.rmtree(work, ignore_errors=True)
    return files


def fetch(source: Source, part: Path, beside: Path) -> None:
    """Complete the file `part`, which may hold the beginning of the archive, from the first address that serves it.

    Raises `InputError` that says what each address did and how to get the archive by hand, to the path `beside`.
    """
    failures = []
    for address in source.addresses:
        host = urllib.parse.urlsplit(address).netloc
        _say(f"{source.title}: from {host}; {_size(part):,} of {source.size:,} bytes are there")
        try:
            _fetch_from(address, source, part)
            return
        except _UnservedError as error:
            _say(f"{host} {error}")
            failures.append(f"{host} {error}")
    raise InputError(
        f"no address serves {source.file}: {'; '.join(failures)}. Run the same command again to continue, or download "
        f"it by hand from {source.page} to {beside} (or anywhere, and name it with --archive): "
        f"it has {source.size:,} bytes and the sha256 {source.sha256}"
    )


def _fetch_from(address: str, source: Source, part: Path) -> None:
    """Complete `part` from one address and check it; what does not fit is deleted."""
    for _ in range(2):  # again from the start, if what has been put together is not of one file
        in_one_go = _complete(address, source, part)
        _say(f"{source.title}: checking the sha256 of {source.file}")
        if file_sha256(part) == source.sha256:
            return
        part.unlink()
        if in_one_go:
            raise _UnservedError("serves another file of the same size")
        _say(f"{source.title}: the pieces do not belong together and are dropped")
    raise _UnservedError("serves pieces that do not belong together")


def _complete(address: str, source: Source, part: Path) -> bool:
    """Bring `part` to the archive's size; whether one answer brought all of it."""
    in_one_go = _size(part) == 0
    answers = 0
    while (before := _size(part)) < source.size:
        try:
            _append(part, source, _receive(address, before, source.size))
        except _UnservedError:
            answers += 1
            if _size(part) == before or answers == _MAX_ANSWERS:
                raise
            in_one_go = False
    return in_one_go


def _append(part: Path, source: Source, chunks: Generator[bytes, None, None]) -> None:
    with closing(chunks), _progress(f"{source.title}: downloading", source.size, _size(part)) as advance:
        try:
            with part.open("ab") as file:
                for chunk in chunks:
                    file.write(chunk)
                    advance(len(chunk))
        except OSError as error:
            raise InputError(f"{part} cannot be written ({error.strerror}); make room, or check permissions") from error


def _receive(address: str, begin: int, size: int) -> Generator[bytes, None, None]:
    """The archive's bytes from `begin` on as one answer brings them; raises `_UnservedError` if that is not all."""
    headers = {"User-Agent": f"winclip-bench/{__version__}", "Accept-Encoding": "identity"}
    if begin:
        headers["Range"] = f"bytes={begin}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT) as answer:
            position = _first_byte(answer, begin, size)
            while position < size and (chunk := answer.read1(_CHUNK)):
                known = max(begin - position, 0)  # a server without ranges begins at 0 again
                position += len(chunk)
                if position > size:
                    raise _UnservedError(f"sends more than the {size:,} bytes of the archive")
                yield chunk[known:]
    except urllib.error.HTTPError as error:
        raise _UnservedError(f"answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise _UnservedError(f"cannot be reached or breaks off ({reason})") from error
    if position < size:
        raise _UnservedError(f"breaks off after {position:,} of {size:,} bytes")


def _first_byte(answer: http.client.HTTPResponse, begin: int, size: int) -> int:
    """The position in the archive at which an answer begins; refuses another file, which its size gives away."""
    first, total = 0, answer.headers.get("Content-Length", str(size))
    if answer.status == http.client.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != begin:
            raise _UnservedError(f"does not send the bytes from {begin:,} on that it was asked for")
        first, total = begin, match[2]
    elif answer.status != http.client.OK:
        raise _UnservedError(f"answers {answer.status} {answer.reason}")
    if total != str(size):
        raise _UnservedError(f"has a file of {total} bytes instead of {size:,}")
    return first


def _check_archive(source: Source, archive: Path) -> None:
    what_to_do = f"take it away, or replace it with {source.file} of {source.page}"
    if not archive.is_file():
        raise InputError(f"{archive} is not a file; name {source.file} with --archive")
    try:
        size = _size(archive)
        if size != source.size:
            raise InputError(f"{archive} has {size:,} bytes instead of {source.size:,}; {what_to_do}")
        _say(f"{source.title}: checking the sha256 of {archive}")
        sha256 = file_sha256(archive)
    except OSError as error:
        raise InputError(f"{archive} cannot be read ({error.strerror}); check its permissions") from error
    if sha256 != source.sha256:
        raise InputError(f"{archive} has the sha256 {sha256} instead of {source.sha256}; {what_to_do}")


def _check_space(source: Source, folder: Path, to_download: int) -> None:
    """Images do not compress, so what comes out of the archive weighs what the archive weighs, or more."""
    needed, free = max(to_download, 0) + source.size, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder.parent} has {free:,} bytes free and {source.title} needs at least {needed:,}; "
            f"make room, or choose another --root"
        )


def _unpack(source: Source, archive: Path, folder: Path) -> int:
    """Unpack into `folder`, dropping what an interrupted attempt has left there, and check what has to be there."""
    if folder.exists():
        shutil.rmtree(folder)
    with _progress(f"{source.title}: unpacking", source.size) as advance:
        files = extract(archive, folder, source.max_bytes, source.max_members, advance)
    for name in source.folders:
        if not (folder / name).is_dir():
            raise InputError(f"{archive} holds no folder {name}; the file in sources/ about {source.title} is wrong")
    for name, sha256 in source.files.items():
        found = file_sha256(folder / name) if (folder / name).is_file() else "none"
        if found != sha256:  # a doubt about that one file, not about the archive, whose own sha256 is right
            _say(f"warning: {name} has the sha256 {found}, the official one {sha256}; compare it with {source.page}")
    return files


def _work_folder(target: Path) -> Path:
    return target.parent / f".{target.name}.download"


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """The folder of everything unfinished, for one process at a time."""
    work = _work_folder(target)
    try:
        work.mkdir(parents=True, exist_ok=True)
        handle = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{work} cannot be made ({error.strerror}); choose another --root") from error
    try:
        with suppress(OSError):  # not every network file system knows locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is at work in {work}; wait until it has finished") from error
        yield work
    except OSError as error:
        raise InputError(f"{work} cannot be worked in ({error}); check permissions, or delete it") from error
    finally:
        os.close(handle)


@contextmanager
def _progress(title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Counts bytes: as a bar on a terminal, elsewhere in one line per tenth."""
    with tqdm(total=total, initial=done, desc=title, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar:
        tenth = done * 10 // total

        def advance(count: int) -> None:
            nonlocal done, tenth
            done += count
            bar.update(count)
            if bar.disable and done * 10 // total > tenth:
                tenth = done * 10 // total
                _say(f"{title}, {tenth}0 %")

        yield advance


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _accept_licence(source: Source, accepted: bool) -> None:
    """Show the licence and ask for it; raises `InputError` without a yes."""
    print(f"{source.title} ({source.page}) comes under {source.licence}: {source.terms}.\n{source.licence_page}")
    if accepted:
        return
    if not sys.stdin.isatty():
        raise InputError(f"the licence of {source.title} has to be accepted; add --accept-licence if you do")
    with suppress(EOFError):
        if input("Do you accept it? [y/N] ").strip().lower() in ("y", "yes"):
            return
    raise InputError(f"without its licence {source.title} is not downloaded; nothing has been done")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m winclip_bench.data download",
        description="Download a dataset, check it and unpack it. The same command continues after an interruption.",
    )
    parser.add_argument("dataset", choices=source_names())
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(os.environ.get("WINCLIP_BENCH_DATA") or "data"),
        help="the folder that gets the dataset's folder; now %(default)s",
    )
    parser.add_argument("--accept-licence", action="store_true", help="accept the licence without being asked")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="an archive that is already there")
    parser.add_argument("--keep-archive", action="store_true", help="keep the downloaded archive beside the dataset")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    source, target = read_source(options.dataset), options.root.expanduser() / options.dataset
    try:
        if os.path.lexists(target):
            if not target.is_dir() or not any(target.iterdir()):
                raise InputError(f"{target} is there but holds no dataset; take it away and run this again")
            print(f"{target} is already there and left alone")
            if _work_folder(target).exists():  # of a run that was interrupted in its very last step
                with _workplace(target) as work:
                    shutil.rmtree(work)
            return 0
        _accept_licence(source, options.accept_licence)
        files = download(source, target, options.archive, options.keep_archive)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        return 130
    print(f"{source.title}: {files:,} files in {target}")
    print(f"to check it: python -m winclip_bench.data check dataset={options.dataset}")
    return 0
