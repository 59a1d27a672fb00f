"""Commands in children of this process, in which something is broken on purpose.

A child is forked: it has torch imported and the model loaded, and is like a new process otherwise. Nothing takes any
time in it that records keep, and it knows no checkout, which somebody may edit meanwhile: two runs of the same thing
leave the same bytes.
"""

import gc
import json
import logging
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import torch

import winclip_bench
from tests.helpers import arguments
from winclip_bench import cli, provenance, runner, tracking
from winclip_bench.features import store
from winclip_bench.features.__main__ import find_models, verify
from winclip_bench.pipelines import shared
from winclip_bench.records import read_all

PACKAGE = str(Path(winclip_bench.__file__).parent) + os.sep
GIT = provenance._git
PATIENCE = 60.0  # seconds until a child is said to hang

Fault = Callable[[], object]  # run in the child before its command


@dataclass(frozen=True)
class Place:
    """Where runs happen: a dataset, and beside it results, cache and temporary files."""

    folder: Path
    root: Path

    @property
    def results(self) -> Path:
        """The results folder of its commands."""
        return self.folder / "results"

    @property
    def cache(self) -> Path:
        """The cache folder of its commands."""
        return self.folder / "cache"

    @property
    def scratch(self) -> Path:
        """The folder for temporary files of its commands."""
        return self.folder / "tmp"

    def words(self, *more: object) -> list[str]:
        """The arguments of a quick run; of one reference and with maps where nothing else is said."""
        return arguments(self.root, self.results, *(more or ("k_shot=1",)), "save_maps=true", "pictures=2")


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code, or minus the number of the signal that killed it; and what it said."""

    code: int
    out: str
    err: str

    @property
    def complaints(self) -> list[str]:
        """The lines of standard error that begin with ``error: ``."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def warnings(self) -> list[str]:
        """The lines of standard error that begin with ``warning: ``."""
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


@dataclass(frozen=True)
class Child:
    """A command that is running."""

    pid: int
    said: tuple[Path, Path]

    def wait(self, patience: float = PATIENCE) -> Ended:
        """How it ends. One that does not is killed, and fails the test."""
        watched = os.pidfd_open(self.pid)
        try:
            hangs = not select.select([watched], [], [], patience)[0]
            if hangs:
                os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        finally:
            os.close(watched)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in self.said)
        assert not hangs, f"it hangs:\n{err}"
        return Ended(os.waitstatus_to_exitcode(status), out, err)


def start(place: Place, words: list[str], *faults: Fault) -> Child:
    """Begin a command in a child, in which the faults have been made first."""
    place.scratch.mkdir(exist_ok=True)
    number = len(list(place.folder.glob("*.out")))
    said = (place.folder / f"{number}.out", place.folder / f"{number}.err")
    for path in said:
        path.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # the child's garbage collections would copy all memory of this process
    pid = os.fork()
    if pid:
        gc.unfreeze()
        return Child(pid, said)
    code = 70  # of the harness itself
    try:
        _become_new(place, said)
        for fault in faults:
            fault()
        code = _command(words)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run(place: Place, words: list[str], *faults: Fault, patience: float = PATIENCE) -> Ended:
    """A command in a child, from beginning to end."""
    return start(place, words, *faults).wait(patience)


def _become_new(place: Place, said: tuple[Path, Path]) -> None:
    """Forget what the parent has been doing, but for the model, which is the same for all."""
    torch.set_num_threads(1)  # before any other thread does something: torch renews its pool in the first call
    for stream, path in enumerate((Path(os.devnull), *said)):
        file = os.open(path, os.O_RDWR | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    open_streams()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger().handlers.clear()
    tempfile.tempdir = str(place.scratch)
    cli._scratch = tempfile.TemporaryDirectory(prefix="winclip-bench-")
    runner._encoder.cache_clear()
    runner._comparisons.cache_clear()
    store._refused.clear()
    tracking._online_failed = False
    provenance._git = lambda: None
    shared.time = SimpleNamespace(perf_counter=lambda: 0.0)  # type: ignore[assignment]


def open_streams() -> None:
    """Standard output and standard error as Python opens them where they are no terminals."""
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    errors = {"buffering": 1, "errors": "backslashreplace"}
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False, **errors)  # type: ignore  # noqa: SIM115


def _command(words: list[str]) -> int:
    """What the installed command does, from the first line to the last that Python runs of a process."""
    sys.argv = ["winclip-bench", *words]
    code: Any = 1
    try:
        cli.command()
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    cli._scratch.cleanup()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            code = 120  # as Python itself ends where its last words cannot be written
    return int(code)


# Where in a run something happens


def stage_of(frame: FrameType | None) -> str | None:
    """What the package is doing in a frame; writing a file is part of what asked for it."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE) and not name.endswith("records.py"):
            return _STAGES.get(name.removeprefix(PACKAGE).partition(os.sep)[0].removesuffix(".py"))
        frame = frame.f_back
    return None


_STAGES = {
    "data": "reading",
    "encoding": "encoding",
    "clip": "encoding",
    "features": "storing",
    "comparisons": "scoring",
    "evaluation": "scoring",
    "methods": "scoring",
    "metrics": "scoring",
    "pipelines": "scoring",
    "pictures": "recording",
    "runner": "recording",
    "jobs": "recording",
    "report": "reporting",
    "reporting": "reporting",
}


class Events:
    """Calls that the package makes, of Python and of C, counted by stage: the same ones in every run of a command."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._at, self._action = ("", 0), kill()
        self._stages: dict[CodeType, str | None] = {}

    def at(self, stage: str, number: int, action: Fault) -> Fault:
        """The fault that does something at the stage's event of that number."""
        self._at, self._action = (stage, number), action
        return self._watch

    def counted(self, file: Path) -> Fault:
        """The fault that breaks nothing, and writes how many events each stage has."""

        def count() -> None:
            self._watch()
            watched = runner.run

            def counting(*arguments: Any, **named: Any) -> int:
                code = watched(*arguments, **named)
                file.write_text(json.dumps(self._counts))
                return code

            runner.run = counting

        return count

    def _watch(self) -> None:
        whole = runner.run

        def watched(*arguments: Any, **named: Any) -> int:
            sys.setprofile(self._note)
            try:
                return whole(*arguments, **named)
            finally:
                sys.setprofile(None)

        runner.run = watched

    def _note(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or event not in {"call", "c_call", "c_return"}:
            return
        if code.co_filename.endswith("records.py"):
            stage = stage_of(frame)
        elif code in self._stages:
            stage = self._stages[code]
        else:
            stage = self._stages[code] = stage_of(frame)
        if stage is not None:
            self._counts[stage] += 1
            if (stage, self._counts[stage]) == self._at:
                sys.setprofile(None)
                self._action()


def drawn(stage: str, count: int, index: int) -> int:
    """One of so many events, the same one for a stage and an index whenever it is asked for."""
    return random.Random(f"{stage} {index}").randrange(count) + 1


def kill(number: int = signal.SIGKILL) -> Fault:
    """The signal, sent to the process itself."""
    return lambda: os.kill(os.getpid(), number)


def killed_half_way(folder: Path, ending: str) -> Fault:
    """SIGKILL that leaves what it does in the middle of writing a file: half of it under its temporary name."""

    def arm() -> None:
        replace = Path.replace

        def dying(self: Path, target: Path) -> Path:
            if target.is_relative_to(folder) and target.match(f"*{ending}"):
                os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = dying  # type: ignore[assignment, method-assign]

    return arm


# What is there afterwards


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder by its path; hidden ones, which are temporary, W&B's, and those that say who was at
    work when, are left out."""
    return {
        name: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        for name in [str(path.relative_to(folder))]
        if not name.startswith(("wandb", "jobs/", "sweeps/"))
    }


def temporary_files(place: Place) -> list[str]:
    """What a run should have tidied up."""
    hidden = [path for folder in (place.results, place.cache) for path in folder.rglob(".*")]
    return [str(path) for path in [*hidden, *place.scratch.iterdir()]]


def assert_whole(place: Place) -> None:
    """Whatever stands under its final name can be read."""
    assert read_all(place.results)[1] == []
    assert verify(find_models(place.cache)) == []


def clear(place: Place) -> None:
    """Take away all that runs have left."""
    for path in place.folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
