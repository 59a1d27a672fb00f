"""What the feature store holds, whether it is whole, and how to make room.

python -m winclip_bench.features                          a table of the models
python -m winclip_bench.features verify                   read everything; exit code 1 if anything is damaged
python -m winclip_bench.features evict --max-size 20GB    delete the least recently used models
"""

import argparse
import errno
import json
import math
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tabulate import tabulate

from winclip_bench.errors import InputError, printable
from winclip_bench.features.shards import Shards
from winclip_bench.features.store import DESCRIPTION

_MODEL_KEY = re.compile(r"[0-9a-f]{16}")
_EVICTED = ".evicted"  # how folders end that are being deleted
_IN_USE = 3600.0  # seconds; what is younger may still be written by another process
_TRIES = 10
_PREFIXES = " kMGT"  # of sizes, powers of 1000


@dataclass(frozen=True)
class Model:
    """The folder of one model key; `size` in bytes, `used` in seconds since the epoch."""

    folder: Path
    size: int
    used: float

    @property
    def kinds(self) -> list[Shards]:
        """Its kinds of arrays."""
        return [Shards(path) for path in sorted(_below(self.folder, "*")) if path.is_dir()]


def default_cache_dir() -> Path:
    """What `runtime.cache_dir` is where nobody sets it."""
    return Path(os.environ.get("WINCLIP_BENCH_CACHE", f"{os.environ.get('HOME', '.')}/.cache/winclip-bench"))


def find_models(cache_dir: Path) -> list[Model]:
    """All models of a cache, the most recently used first. Raises InputError for a cache that cannot be read."""
    features = cache_dir / "features"
    models = []
    try:
        for folder in features.iterdir() if features.exists() else ():
            if _MODEL_KEY.fullmatch(folder.name) and folder.is_dir():
                size, used = 0, 0.0
                for path in _below(folder):
                    with suppress(OSError):  # temporary files come and go; a link may lead round in circles
                        status = path.stat()
                        size += status.st_size if path.is_file() else 0
                        used = max(used, status.st_mtime)
                if folder.exists():
                    models.append(Model(folder, size, used))
    except OSError as error:
        raise InputError(f"{features} cannot be read ({error.strerror}); choose another --cache-dir") from error
    return sorted(models, key=lambda model: (-model.used, model.folder.name))


def find_leftovers(cache_dir: Path) -> list[Path]:
    """Temporary files, arrays without a manifest and half-deleted models that killed processes have left behind."""
    features, recent = cache_dir / "features", time.time() - _IN_USE
    found = list(features.glob(f".*{_EVICTED}"))
    stored = (path for folder in features.glob("[!.]*") for path in _below(folder))
    for path in chain(cache_dir.glob(".file-digests.json.*"), stored):
        unfinished = path.parent == cache_dir or (path.name.startswith(".") and path.suffix == ".tmp")
        unfinished |= path.suffix == ".npy" and not path.with_suffix(".json").exists()
        with suppress(OSError):  # a writer has finished it meanwhile
            if unfinished and path.stat().st_mtime < recent:
                found.append(path)
    return sorted(found)


def _below(folder: Path, pattern: str = "**/*") -> Iterator[Path]:
    """What is in a folder, up to the moment at which another process evicts it."""
    with suppress(FileNotFoundError):
        yield from folder.glob(pattern)


def table(models: Sequence[Model]) -> str:
    """What the models are and how much there is of them, as markdown."""
    rows = []
    for model in models:
        try:
            about = json.loads((model.folder / DESCRIPTION).read_bytes())
            architecture, weights = str(about["architecture"]), str(about["weights"])[:12]
            precision = "text" if about.get("prompts") else str(about["precision"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            architecture = weights = precision = "?"
        kinds = model.kinds
        items = set().union(*(kind.keys() for kind in kinds))
        rows.append(
            {
                "model": model.folder.name,
                "architecture": printable(architecture),
                "weights": printable(weights),
                "precision": printable(precision),
                "images or prompts": len(items),
                "arrays": printable(", ".join(kind.folder.name for kind in kinds)),
                "size": format_size(model.size),
                "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(model.used)),
            }
        )
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def verify(models: Sequence[Model]) -> list[str]:
    """One line per damaged shard."""
    return [fault for model in models for kind in model.kinds for fault in kind.verify()]


def choose(
    models: Sequence[Model], keys: Sequence[str], *, every: bool, older_than: float | None, max_size: int | None
) -> list[Model]:
    """The models to delete: those named, those not used for so many seconds, and the least recently used beyond a
    number of bytes. Raises InputError for a key that is not there."""
    known = {model.folder.name for model in models}
    for key in keys:
        if key not in known:
            raise InputError(f"there is no model {printable(key)}; the store has {', '.join(sorted(known)) or 'none'}")
    cutoff = -1.0 if older_than is None else time.time() - older_than
    chosen = [model for model in models if every or model.folder.name in keys or model.used < cutoff]
    kept = [model for model in models if model not in chosen]
    while max_size is not None and sum(model.size for model in kept) > max_size:
        least_recent = min(kept, key=lambda model: model.used)
        kept.remove(least_recent)
        chosen.append(least_recent)
    return chosen


def delete(path: Path) -> None:
    """Delete a file, or a folder so that nobody finds half of it. Raises InputError where that is refused."""
    try:
        if path.is_dir():
            if not path.name.endswith(_EVICTED):
                path = path.rename(path.with_name(f".{path.name}-{secrets.token_hex(4)}{_EVICTED}"))
            _delete_folder(path)
        else:
            path.unlink(missing_ok=True)
    except (FileNotFoundError, IsADirectoryError):
        pass  # somebody else was faster, and a run may have begun a folder of that name since
    except OSError as error:
        raise InputError(f"{path} cannot be deleted ({error.strerror}); check who owns it") from error


def _delete_folder(folder: Path) -> None:
    """Delete a folder that another process may be deleting too, or may have been about to write a last file into."""
    for left in reversed(range(_TRIES)):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if not left or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
        if not folder.exists():
            return


def format_size(size: int) -> str:
    """
    >>> format_size(999), format_size(1_740), format_size(20 * 10**9)
    ('999 B', '1.7 kB', '20.0 GB')
    """
    power = max((power for power in range(1, len(_PREFIXES)) if size >= 1000**power), default=0)
    return f"{size / 1000**power:.1f} {_PREFIXES[power]}B" if power else f"{size} B"


def parse_size(text: str) -> int:
    """Bytes of a size with a decimal unit; raises ArgumentTypeError for anything else.

    >>> parse_size("20GB"), parse_size("1.5 MB"), parse_size("0")
    (20000000000, 1500000, 0)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 20GB or 500MB")
    return int(float(match[1]) * 1000 ** _PREFIXES.lower().index(match[2].lower() or " "))


def parse_days(text: str) -> float:
    """Seconds of a number of days; raises ArgumentTypeError for anything but a number from 0 on.

    >>> parse_days("1.5")
    129600.0
    """
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days such as 30")
    return days * 86400


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--cache-dir", type=Path, default=argparse.SUPPRESS, help=f"where runs keep it; now {default_cache_dir()}"
    )
    parser = argparse.ArgumentParser(
        prog="python -m winclip_bench.features", description="List, verify and evict stored features.", parents=[common]
    )
    commands = parser.add_subparsers(dest="command", metavar="list|verify|evict")
    commands.add_parser("list", help="a table of the models (the default)", parents=[common])
    commands.add_parser("verify", help="read everything; exit code 1 if anything is damaged", parents=[common])
    evict = commands.add_parser(
        "evict",
        help="delete models, and what killed runs have left",
        description="Delete models, and what killed runs have left; without a choice only that. Nothing is asked.",
        parents=[common],
    )
    evict.add_argument("models", nargs="*", metavar="MODEL", help="keys as list shows them")
    evict.add_argument("--all", action="store_true", help="every model")
    evict.add_argument("--older-than", type=parse_days, metavar="DAYS", help="those not used for so many days")
    evict.add_argument(
        "--max-size",
        type=parse_size,
        metavar="SIZE",
        help="the least recently used, until the rest has that size: 20GB",
    )
    evict.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    cache_dir = getattr(options, "cache_dir", default_cache_dir())
    try:
        models = find_models(cache_dir)
        if options.command == "verify":
            return _verify(models)
        if options.command == "evict":
            chosen = choose(
                models, options.models, every=options.all, older_than=options.older_than, max_size=options.max_size
            )
            gone = [model.folder for model in chosen]
            leftovers = [path for path in find_leftovers(cache_dir) if not any(map(path.is_relative_to, gone))]
            _evict(chosen, leftovers, options.dry_run)
        elif models:
            print(table(models))
        else:
            print(f"no features in {cache_dir}")
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _verify(models: Sequence[Model]) -> int:
    faults = verify(models)
    for fault in faults:
        print(printable(fault))
    shards = sum(len(kind.manifests()) for model in models for kind in model.kinds)
    print(f"{shards} shards of {len(models)} models, {len(faults)} damaged")
    if faults:
        print("a run that needs a damaged shard computes it again")
    return int(bool(faults))


def _evict(models: Sequence[Model], leftovers: Sequence[Path], dry_run: bool) -> None:
    verb = "would delete" if dry_run else "deleted"
    for model in models:
        if not dry_run:
            delete(model.folder)
        print(f"{verb} {model.folder.name} ({format_size(model.size)})")
    for path in leftovers:
        if not dry_run:
            delete(path)
        print(printable(f"{verb} {path}, which a killed run has left"))
    print(f"{verb} {len(models)} models, {format_size(sum(model.size for model in models))}")


if __name__ == "__main__":
    sys.exit(main())
