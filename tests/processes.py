"""Many processes at once, each as a command of its own, without the seconds that importing torch takes.

One process imports and loads everything, on one thread, and the others are forked from it: forking the process of the
tests instead would hang where torch has threads already.
"""

import copy
import multiprocessing
import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

from tests.helpers import captured, forget_stores
from winclip_bench import runner
from winclip_bench.claims.__main__ import main as claims_main
from winclip_bench.cli import compose
from winclip_bench.config import Config
from winclip_bench.features.__main__ import main as features_main
from winclip_bench.report.__main__ import main as report_main

PATIENCE = 120  # seconds until a round that should have ended is given up

# Which program (`run`, `features`, `report` or `claims`) and the words after it. One whose name ends with "…" runs
# again and again until the others are done.
Command = tuple[str, tuple[str, ...]]
Ended = tuple[int, str, str]  # exit code, standard output, standard error


@contextmanager
def starter(folder: Path, warm_up: Sequence[Command]) -> Iterator["Starter"]:
    """A process from which others are forked; commands run in it once are what the others need not load again."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
        process = context.Process(target=_serve, args=(there, str(folder), list(warm_up)), daemon=False)
        process.start()
    there.close()
    try:
        yield Starter(here)
    finally:
        here.close()  # it ends by itself then
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()


class Starter:
    """Starts rounds of processes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def at_once(self, folder: Path, commands: Sequence[Command], seed: int = 0) -> list[list[Ended]]:
        """Run commands at the same moment, each in its own process with `folder` as its working folder.

        seed   of the pauses that are put before files are written and read, so that rounds differ; 0 for none

        Returns how each of them ended, each time it ran.
        """
        self._connection.send((str(folder), list(commands), seed))
        assert self._connection.poll(PATIENCE), "the processes did not end"
        ended: list[list[Ended]] = self._connection.recv()
        return ended


def _serve(connection: Connection, folder: str, warm_up: Sequence[Command]) -> None:
    """Run rounds until nobody asks for one any more."""
    os.chdir(folder)
    for command in warm_up:
        code, _, err = _run(command)
        assert code == 0, err
    forking = multiprocessing.get_context("fork")
    while True:
        try:
            place, commands, seed = connection.recv()
        except EOFError:
            return
        for program, words in commands:
            if program == "run":
                _configuration(words)
        barrier, done = forking.Barrier(len(commands)), forking.Event()
        readers, processes = [], []
        for number, command in enumerate(commands):
            reader, writer = forking.Pipe(duplex=False)
            chance = random.Random(1000 * seed + number) if seed else None
            process = forking.Process(target=_one, args=(writer, place, command, chance, barrier, done))
            process.start()
            writer.close()
            readers.append(reader)
            processes.append(process)
        once = [reader for reader, (program, _) in zip(readers, commands, strict=True) if not program.endswith("…")]
        ended: dict[Any, list[Ended]] = {}
        deadline = time.monotonic() + PATIENCE - 10
        while len(ended) < len(readers) and time.monotonic() < deadline:
            for reader in wait([each for each in readers if each not in ended], timeout=1):
                try:
                    ended[reader] = reader.recv()
                except EOFError:
                    ended[reader] = [(-1, "", "the process died")]
            if all(reader in ended for reader in once):
                done.set()
        for process in processes:
            process.join(timeout=0 if len(ended) < len(readers) else 10)
            if process.is_alive():
                process.kill()
        connection.send([ended.get(reader, [(-1, "", "the process did not end")]) for reader in readers])


def _one(
    writer: Connection, folder: str, command: Command, chance: random.Random | None, barrier: Any, done: Any
) -> None:
    """The forked process."""
    forget_stores()
    os.chdir(folder)
    program, words = command
    ended, parent = [], os.getppid()
    barrier.wait(PATIENCE)
    with _pauses(chance):
        ended.append(_run((program.removesuffix("…"), words)))
        while program.endswith("…") and os.getppid() == parent and not done.wait(0.005):
            ended.append(_run((program.removesuffix("…"), words)))
    writer.send(ended)
    writer.close()
    os._exit(0)


@contextmanager
def _pauses(chance: random.Random | None) -> Iterator[None]:
    """Pauses of up to some milliseconds before a file gets its name, where other processes go on meanwhile."""
    replace = Path.replace

    def later(self: Path, target: Path) -> Path:
        if chance is not None:
            time.sleep(chance.uniform(0, 0.004))
        return replace(self, target)

    if chance is not None:
        time.sleep(chance.uniform(0, 0.05))
    with mock.patch.object(Path, "replace", later), mock.patch.object(os, "fsync", lambda _: None):
        yield


def _run(command: Command) -> Ended:
    """Run one program in this process; a fault of ours is exit code 1 and its name."""
    program, words = command
    with captured() as (out, err):
        try:
            # Hydra would take longer than the run, and so spread those that begin at once.
            code = runner.run(copy.deepcopy(_configuration(words))) if program == "run" else _MAINS[program](words)
        except Exception as error:
            code = 1
            err.write(f"Traceback: {type(error).__name__}: {error}")
    return code, out.getvalue(), err.getvalue()


_MAINS = {"features": features_main, "report": report_main, "claims": claims_main}


@cache
def _configuration(words: tuple[str, ...]) -> Config:
    return compose(words)
