"""What a long job shows while it works, on a terminal and in a file, and how it ends when it is interrupted."""

import fcntl
import io
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, arguments, command, make_category, read_records
from winclip_bench.progress import SECONDS, Progress


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(stream: io.StringIO, seconds: float = 10.0) -> None:
    """A job of three categories: one that was finished before, one half from the store, one in the middle."""
    clock = Clock()
    with Progress({"nut": 10, "bolt": 10, "screw": 10}, stream, clock) as progress:
        progress.begin("nut")
        progress.end("nut")
        for name in ("bolt", "screw"):
            progress.begin(name)
            progress.images(5, 0)
            for _ in range(5):
                clock.now += seconds
                progress.images(0, 1)
            if name == "bolt":
                progress.end(name)


def test_a_file_gets_a_line_now_and_then_without_control_characters() -> None:
    stream = io.StringIO()
    work(stream)
    lines = stream.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 100 // SECONDS
    assert lines[0] == "1/3 categories · bolt 8/10 images, 5 from the store · 0.1 images/s · 00:45 left"
    assert lines[2].startswith("2/3 categories · screw 9/10 images, 5 from the store · 0.1 images/s · 00:04 left")


def test_a_short_job_says_nothing_in_a_file() -> None:
    stream = io.StringIO()
    work(stream, 0.1)
    assert stream.getvalue() == ""


def test_a_dumb_terminal_is_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    work(stream)
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_has_one_line_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    work(stream)
    assert "\n" not in stream.getvalue()
    assert "2/3 categories · screw" in stream.getvalue()
    assert stream.getvalue().endswith("\r")


def test_more_images_than_were_expected_do_not_break_it() -> None:
    stream = io.StringIO()
    clock = Clock()
    with Progress({"bolt": 1, "nut": 1}, stream, clock) as progress:
        progress.begin("bolt")
        clock.now = 60
        progress.images(7, 7)
        progress.end("bolt")
    assert stream.getvalue() == "0/2 categories · bolt 1/1 images, 1 from the store · 0.12 images/s · 01:00 left\n"


def test_the_name_of_a_category_cannot_steer_the_terminal() -> None:
    progress = Progress({"a\x1b[2Jb": 1}, io.StringIO())
    progress.begin("a\x1b[2Jb")
    assert "\x1b" not in str(progress)


@pytest.fixture
def long_work(tmp_path: Path) -> list[str]:
    """A command over two categories, of which the second takes long."""
    make_category(tmp_path / "parts" / "bolt", 1)
    make_category(tmp_path / "parts" / "nut", 2, ((64, 6400),))
    return ["run.py", *arguments(tmp_path / "parts", tmp_path / "results")]


def test_control_c_ends_at_once_keeps_what_is_finished_and_says_how_to_continue(
    long_work: list[str], tmp_path: Path
) -> None:
    def no_core_dump_of_the_group() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with subprocess.Popen(
        [sys.executable, *long_work],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=no_core_dump_of_the_group,  # noqa: PLW1509  (a shell in the background ignores SIGINT)
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as child:
        deadline = time.monotonic() + 120
        while child.poll() is None and not read_records(tmp_path / "results") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert child.poll() is None, child.stderr and child.stderr.read()
        child.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        _, complaints = child.communicate(timeout=60)
        took = time.monotonic() - interrupted
    assert child.returncode == 130
    assert "Traceback" not in complaints
    last = complaints.strip().splitlines()[-1]
    assert last == f"interrupted; what is finished is kept. To continue: {shlex.join(['python', *long_work])}"
    assert [name for _, name in read_records(tmp_path / "results")] == ["bolt"]
    assert took < 10  # the promise is one second; a loaded machine is no reason to fail


def test_a_real_terminal_sees_the_job(long_work: list[str], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    only = [*long_work, "dataset.categories=[bolt]"]
    with subprocess.Popen(
        [sys.executable, *only], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    ) as child:
        assert child.wait(120) == 0
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert re.search(r"0/1 categories · bolt \d/4 images, 0 from the store", seen)
    assert command(*only[1:]).code == 0
