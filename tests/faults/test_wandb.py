"""A W&B client that hangs, crashes, floods or is missing: a warning and a short delay, and no result knows of it."""

import os
import sys
import time

import pytest

from tests.faults.harness import Fault, Place, clear, run, tree
from winclip_bench import tracking

SHORT = 1.0  # seconds that a client may take which takes for ever
BOUND = 20.0  # seconds for a run with any of the clients, on a busy machine

# A client that does what is asked of it, but for what `WANDB_STAND_IN` says.
STAND_IN = """
import atexit, os, pathlib, sys, time

mode = os.environ["WANDB_STAND_IN"]
if mode == "floods":
    for stream in (sys.stdout, sys.stderr):
        stream.write("\\x1b[31mgarbage\\0\\n" * 100_000)
    atexit.register(print, "\\x1b[31mView run at nowhere")


class Run:
    summary = {}
    url = "here"

    def __init__(self, **settings):
        files = pathlib.Path(settings["dir"], "wandb", "offline-run-20200101_000000-" + settings["id"], "files")
        files.mkdir(parents=True, exist_ok=True)
        self.dir = str(files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if mode == "hangs":
            time.sleep(60)
        if mode == "leaves a child behind":
            if os.fork() == 0:
                time.sleep(4)
                os._exit(0)

    def log(self, _):
        if mode == "crashes":
            os.abort()
        if mode == "finds the disk full":
            raise OSError(28, "No space left on device")
        if mode == "ends":
            sys.exit(0)

    def log_artifact(self, _):
        pass


class Anything:
    def __init__(self, *_, **__):
        pass

    def add_file(self, *_, **__):
        pass


init, Settings, Table, Image, Artifact = Run, Anything, Anything, Anything, Anything
"""

MODES: dict[str, str | None] = {
    "hangs": "no answer within 1 s",
    "crashes": "exit code -6",
    "finds the disk full": "No space left on device",
    "ends": "it ended without an answer",
    "is missing": "W&B is not installed",
    "floods": None,
    "leaves a child behind": None,
}


def words(place: Place) -> list[str]:
    return [*place.words("k_shot=1", "tracker=wandb", "tracker.mode=offline")]


@pytest.fixture(scope="module")
def without_mirror(ground: tuple[Place, dict[str, bytes]]) -> dict[str, bytes]:
    """What the same command leaves where nothing is mirrored."""
    place, _ = ground
    clear(place)
    assert run(place, words(place), lambda: setattr(tracking, "find_spec", lambda _: None)).code == 0
    left = tree(place.results)
    clear(place)
    return left


def stand_in(place: Place, mode: str) -> Fault:
    def install() -> None:
        folder = place.scratch / "stand-in"
        folder.mkdir()
        (folder / "wandb.py").write_text(STAND_IN)
        sys.path.insert(0, str(folder))
        os.environ |= {"PYTHONPATH": str(folder), "WANDB_STAND_IN": mode}
        if mode == "hangs":
            tracking.SECONDS = SHORT
        if mode == "is missing":
            sys.modules["wandb"] = None  # type: ignore[assignment]

    return install


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that(place: Place, without_mirror: dict[str, bytes], mode: str) -> None:
    begun = time.monotonic()
    ended = run(place, words(place), stand_in(place, mode))
    assert time.monotonic() - begun < BOUND
    assert ended.code == 0, ended.err
    assert tree(place.results) == without_mirror
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.out + ended.err
    copies = list(place.results.glob("wandb/offline-run-*"))
    if MODES[mode] is None:
        assert ended.warnings == []
        (copy,) = copies
        assert str(copy) in ended.out.splitlines()
    else:
        (warning,) = ended.warnings
        assert str(MODES[mode]) in warning
