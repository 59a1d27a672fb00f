"""What was asked for and what has become of it, as files beside the records, whoever runs the jobs and wherever.

    <results_dir>/sweeps/<sweep>.json   what a sweep asks for, written before its first job starts
    <results_dir>/jobs/<job>.json       of a job that has begun, written by the process that runs it

A job is one run, or one category of it where a sweep is split. Its name is made from its settings, so that the same
command finds what an earlier one has left. These files say who is at work and why something failed; what is finished,
the records alone say. Nothing here is locked, and no result depends on it: whoever writes last is shown.
"""

import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from winclip_bench.errors import InputError, printable
from winclip_bench.reading import LARGEST_LIST, check_regular, parse_json, read_bytes, reason
from winclip_bench.records import record_path, run_id, write_atomically

SCHEMA = 1
BEAT_SECONDS = 30.0  # between two signs of life of a job
LOST_SECONDS = 5 * BEAT_SECONDS  # without one, after which a job counts as lost
_HOW = {"results_dir", "save_maps", "pictures", "force", "tracker", "runtime", "split_categories"}  # not what
_LONGEST_REASON = 500  # characters

State = Literal["running", "finished", "failed", "stopped", "lost", "missing"]

log = logging.getLogger(__name__)


def job_key(config: Mapping[str, Any]) -> str:
    """Name of a job: 12 hex digits over what was asked for, as `config.as_dict` gives it.

    Unlike a run_id it is known before any data are read, and it says nothing about their content.
    """
    asked = {key: value for key, value in config.items() if key not in _HOW}
    return run_id(asked | {"precision": config["runtime"]["precision"]})


@dataclass(frozen=True)
class Asked:
    """One job of a sweep.

    job        its name; None where its settings were refused, so that there is nothing to run
    overrides  what of the settings is its own, as the command line takes it
    refused    why, where it was
    """

    job: str | None
    overrides: tuple[str, ...]
    refused: str | None = None


@dataclass(frozen=True)
class AskedSweep:
    """What one command asks for.

    command  that continues it
    folder   where the command was given, which relative paths in it start from
    """

    command: str
    folder: str
    jobs: tuple[Asked, ...]

    @property
    def name(self) -> str:
        """12 hex digits over what is asked for; the same command has the same sweep."""
        return run_id({"jobs": [[asked.job, *asked.overrides] for asked in self.jobs]})


def sweep_path(results_dir: Path, name: str) -> Path:
    """Where the file of a sweep lies."""
    return Path(results_dir) / "sweeps" / f"{name}.json"


def write_sweep(results_dir: Path, sweep: AskedSweep) -> Path:
    """Write down what a sweep asks for; returns the path. Raises InputError if the file system refuses."""
    content = {
        "schema": SCHEMA,
        "command": sweep.command,
        "folder": sweep.folder,
        "jobs": [
            {"job": asked.job, "overrides": list(asked.overrides)}
            | ({} if asked.refused is None else {"refused": asked.refused})
            for asked in sweep.jobs
        ],
    }
    path = sweep_path(results_dir, sweep.name)
    write_atomically(path, _to_json(content))
    return path


def read_sweep(path: Path) -> AskedSweep:
    """The sweep in a file. Raises InputError if it cannot be read or is not one."""
    try:
        content = _read(path)
        jobs = tuple(
            Asked(
                None if one["job"] is None else _text(one["job"]),
                tuple(map(_text, one["overrides"])),
                None if one.get("refused") is None else _text(one["refused"]),
            )
            for one in content["jobs"]
        )
        return AskedSweep(_text(content["command"]), _text(content["folder"]), jobs)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unusable(path, "sweep", error) from error


class Job:
    """The file of a job, kept up to date by the process that runs it; a context manager.

    Entering says that it runs, and so does a sign of life every BEAT_SECONDS; leaving says how it ended. A file system
    that refuses costs one warning, never a job.

    key      its name, as `job_key` gives it
    command  that runs it again, where it is no part of a sweep
    """

    def __init__(self, results_dir: Path, key: str, command: str | None = None) -> None:
        self._path = Path(results_dir) / "jobs" / f"{key}.json"
        self._content: dict[str, Any] = {"schema": SCHEMA, "command": command, "categories": [], "reasons": {}}
        self._ended = threading.Event()
        self._refused = False

    def __enter__(self) -> "Job":
        self._write(state="running", process=_this_process(), attempt=secrets.token_hex(8))
        threading.Thread(target=self._beat, name="job-beat", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if error is None:
            self._write(state="failed" if self._content["reasons"] else "finished")
        elif isinstance(error, Exception):
            self._write(state="failed", reason=_told(error))
        else:
            self._write(state="stopped", reason="stopped from outside")

    def over(self, dataset: str, run_id: str, categories: Sequence[str]) -> None:
        """Which records the job is to leave."""
        self._write(dataset=dataset, run_id=run_id, categories=list(categories))

    def failed(self, category: str, reason: str) -> None:
        """A category failed; the job goes on."""
        self._write(reasons={**self._content["reasons"], category: reason[:_LONGEST_REASON]})

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # the folder may be gone; whoever writes records into it will say so
                os.utime(self._path)

    def _write(self, **changes: Any) -> None:
        self._content |= changes
        if self._refused:
            return
        try:
            write_atomically(self._path, _to_json(self._content))
        except InputError as error:
            self._refused = True
            log.warning("python -m winclip_bench.status will not know of this job: %s", error)


@dataclass(frozen=True)
class Standing:
    """What has become of a job.

    state       as its own file, its process and the records have it
    done        categories with a record, of `categories`
    reasons     category -> why it failed; under the empty name, why the whole job did
    command     that runs it again, where it is no part of a sweep
    attempt     differs each time the job is begun
    """

    job: str
    state: State
    dataset: str | None = None
    run_id: str | None = None
    categories: tuple[str, ...] = ()
    done: int = 0
    reasons: Mapping[str, str] = field(default_factory=dict)
    command: str | None = None
    attempt: str | None = None


def read_jobs(results_dir: Path) -> tuple[dict[str, Standing], list[str]]:
    """The jobs that have begun, by name, and one sentence for each file that is broken."""
    found: dict[str, Standing] = {}
    broken = []
    now = _file_system_now(Path(results_dir) / "jobs")
    for path in _files(Path(results_dir) / "jobs"):
        try:
            found[path.stem] = _standing(Path(results_dir), path, now)
        except FileNotFoundError:
            continue  # deleted since it was listed
        except (OSError, ValueError, TypeError, KeyError, AttributeError, InputError) as error:
            broken.append(str(_unusable(path, "job", error)))
    return found, broken


def read_sweeps(results_dir: Path) -> tuple[dict[str, AskedSweep], list[str]]:
    """The sweeps, by name, the one asked for last first, and one sentence for each file that is broken."""
    found: dict[str, AskedSweep] = {}
    broken = []
    for path in sorted(_files(Path(results_dir) / "sweeps"), key=_changed, reverse=True):
        try:
            found[path.stem] = read_sweep(path)
        except InputError as error:
            broken.append(str(error))
    return found, broken


def _standing(results_dir: Path, path: Path, now: float) -> Standing:
    content = _read(path)
    stated = content["state"]
    dataset, run = content.get("dataset"), content.get("run_id")
    categories = tuple(map(_text, content["categories"]))
    reasons = {_text(name): _text(reason) for name, reason in content["reasons"].items()}
    if content.get("reason") is not None:
        reasons[""] = _text(content["reason"])
    done = 0
    if dataset is not None and run is not None:
        done = sum(record_path(results_dir, _text(dataset), _text(run), name).exists() for name in categories)
    state: State
    if categories and done == len(categories) and stated != "running":
        state, reasons = "finished", {}  # by this job, or by another one since
    elif stated == "running":
        state = "running" if _alive(content["process"], now - path.stat().st_mtime) else "lost"
        if state == "lost" and categories and done == len(categories):
            state = "finished"
    elif stated in ("failed", "stopped"):
        state = stated
    elif stated == "finished":
        state = "missing"  # its records have been deleted since
    else:
        raise ValueError(f"its state is {stated!r}")
    command = None if content["command"] is None else _text(content["command"])
    return Standing(path.stem, state, dataset, run, categories, done, reasons, command, _text(content["attempt"]))


def _alive(process: Mapping[str, Any], silence: float) -> bool:
    """Whether a job's process is at work: by its own machine where that is this one, elsewhere by its signs of life.

    silence  seconds since the last; negative where a clock was put back
    """
    if process["where"] == _where():
        return _started(int(process["pid"])) == process["started"]
    return abs(silence) <= LOST_SECONDS


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "where": _where(), "pid": os.getpid(), "started": _started(os.getpid())}


def _where() -> str:
    """What has process numbers of its own: a machine since it was started, and a container in it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the machine did; numbers of processes are used again. None for none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _file_system_now(folder: Path) -> float:
    """The time of the file system, which stamps files by a clock of its own; seconds since the epoch."""
    probe = folder / f".{secrets.token_hex(8)}.probe"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:
        return max((_changed(path) for path in _files(folder)), default=0.0)
    return now


def _files(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.name[0] != ".")
    except OSError:
        return


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _told(error: Exception) -> str:
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return text[:_LONGEST_REASON]


def _read(path: Path) -> dict[str, Any]:
    check_regular(path)
    content = parse_json(read_bytes(path, LARGEST_LIST))
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError("another version's, or none")
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text should be")
    return value


def _to_json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def _unusable(path: Path, what: str, error: Exception) -> InputError:
    return InputError(f"{printable(str(path))} is not a usable {what} ({printable(reason(error))}): delete it")
