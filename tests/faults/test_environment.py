"""Where a command is run: streams that are closed or full, no home, no git, odd locales, masks, folders and names."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.faults.harness import GIT, Fault, Place, open_streams, run, tree
from tests.helpers import make_category, read_records, without
from winclip_bench import provenance

# Standard output and standard error


def full(stream: int) -> None:
    """The stream is a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def unread(stream: int) -> None:
    """The stream is a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, stream)
    open_streams()


def closed(stream: int) -> None:
    """The stream was closed before Python began, which has none then."""
    os.close(stream)
    name = ("stdin", "stdout", "stderr")[stream]
    setattr(sys, name, None)
    setattr(sys, f"__{name}__", None)


@pytest.mark.parametrize(
    ("break_it", "stream", "code"),
    [(full, 1, 1), (unread, 1, 0), (closed, 1, 0), (full, 2, 0), (unread, 2, 0), (closed, 2, 0)],
)
def test_nobody_listens(
    place: Place, undisturbed: dict[str, bytes], break_it: Callable[[int], None], stream: int, code: int
) -> None:
    """Everything is computed and written; only that the words of a result are lost is worth an exit code."""
    ended = run(place, place.words(), lambda: break_it(stream))
    assert tree(place.results) == undisturbed
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert "Exception ignored" not in ended.err
    assert len(ended.complaints) == code
    if code:
        assert "standard output" in ended.complaints[0]
    if stream == 2:
        assert "| mean" in ended.out


def test_a_sweep_goes_on_when_nobody_reads(place: Place) -> None:
    """``winclip-bench -m … | head -1`` computes all of its jobs."""
    ended = run(place, place.words("-m", "k_shot=0,1"), lambda: unread(1))
    assert ended.code == 0, ended.err
    assert len(read_records(place.results)) == 4


# Git, home, masks, time zones


def numbers(place: Place) -> dict[str, dict[str, Any]]:
    """The records by category, without what says how and where they came about."""
    return {name: without(record, "config", "provenance") for (_, name), record in read_records(place.results).items()}


@pytest.fixture
def usual(undisturbed: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """As `numbers`, of the undisturbed run."""
    records = [
        json.loads(content)
        for name, content in undisturbed.items()
        if name.startswith("records/") and name.endswith(".json")
    ]
    return {record["category"]: without(record, "config", "provenance") for record in records}


def no_git() -> None:
    os.environ["PATH"] = "/nowhere"
    provenance._git = GIT


def odd_time_zone() -> None:
    os.environ["TZ"] = "Nowhere/Odd+99:99"
    time.tzset()


def odd_terminal() -> None:
    os.environ |= {"TERM": "nothing-of-the-kind", "COLUMNS": "-3", "LINES": "x"}


def all_private() -> None:
    os.umask(0o077)


def all_public() -> None:
    os.umask(0)


def no_home() -> None:
    del os.environ["HOME"]


def a_home_that_nobody_can_write() -> None:
    os.environ["HOME"] = "/proc/nowhere"


@pytest.mark.parametrize(
    "faults",
    [[no_git, odd_time_zone, odd_terminal, all_private], [no_home, all_public], [a_home_that_nobody_can_write]],
    ids=lambda faults: "-".join(fault.__name__ for fault in faults),
)
def test_an_odd_environment_changes_no_number(
    place: Place, usual: dict[str, dict[str, Any]], faults: list[Fault]
) -> None:
    words = [word for word in place.words() if "home" not in faults[0].__name__ or not word.startswith("runtime.cache")]
    ended = run(place, words, *faults, lambda: os.chdir(place.scratch))
    assert ended.code == 0, ended.err
    assert numbers(place) == usual
    modes = {path.stat().st_mode & 0o777 for path in place.results.rglob("*") if path.is_file()}
    assert modes == {0o600 if all_private in faults else 0o666 if all_public in faults else 0o666 & ~umask()}
    if no_git in faults:
        assert {record["provenance"]["git"] for record in read_records(place.results).values()} == {None}
    assert len(ended.warnings) == int(a_home_that_nobody_can_write in faults), ended.err
    assert all("features are not kept on disk" in warning for warning in ended.warnings)


def umask() -> int:
    """This process's, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.mark.parametrize("state", ["no checkout", "clean", "dirty"])
def test_what_is_said_of_the_sources(tmp_path: Path, state: str) -> None:
    """Of a copy of them, of a checkout, and of one that has been edited."""
    source = Path(shutil.copy(provenance.__file__, tmp_path))
    if state != "no checkout":
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "add", source.name)
        git(tmp_path, "commit", "--quiet", "--message", "A copy")
    if state == "dirty":
        source.write_text(source.read_text() + "\n")
    (tmp_path / "untracked").touch()
    with mock.patch.object(provenance, "__file__", str(source)):
        said = provenance.provenance(torch.device("cpu"))["git"]
    assert said == (None if state == "no checkout" else {"commit": said["commit"], "dirty": state == "dirty"})


# Folders and names


def test_a_working_folder_that_is_gone(place: Place) -> None:
    def leave() -> None:
        gone = place.folder / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()

    ended = run(place, place.words(), leave)
    assert ended.code == 1
    assert ended.err == "error: there is no working folder (No such file or directory); change to another one\n"
    assert not place.results.exists()


DEEP = "/".join(["deep" * 40] * 20)  # the longest path has 4096 bytes
NAMES = ['two words/line\nbreak/tab\t"quotes"/äöü 部品/bytes \udcff\udcfe/#?%&<b>/-m/a=b,c/{x}/[y]', DEEP]


@pytest.mark.parametrize("name", NAMES, ids=["odd", "deep"])
def test_odd_names_of_folders(place: Place, usual: dict[str, dict[str, Any]], name: str) -> None:
    odd = within(place, name)
    shutil.copytree(place.root, odd.root)
    ended = run(odd, quoted(odd))
    assert ended.code == 0, ended.err
    assert numbers(odd) == usual
    again = run(odd, quoted(odd))
    assert again.code == 0, again.err
    assert "finished before" in again.err


def test_a_path_that_is_too_long(place: Place) -> None:
    ended = run(place, quoted(Place(place.folder / DEEP / DEEP, place.root)))
    assert ended.code == 1
    assert len(ended.complaints) == 1, ended.err
    assert "results_dir=" in ended.complaints[0]
    assert "too long" in ended.complaints[0]


def within(place: Place, name: str) -> Place:
    """A place in a folder of that name."""
    folder = place.folder / name
    try:
        folder.mkdir(parents=True)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    return Place(folder, folder / "parts")


def quoted(place: Place) -> list[str]:
    """The arguments of the quick run, with paths in quotes, as Hydra wants odd ones."""
    return [
        f"{key}='{value}'" if value.startswith("/") else f"{key}={value}"
        for key, _, value in (word.partition("=") for word in place.words())
    ]


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_a_locale_that_misreads_names(place: Place, encoding: str) -> None:
    """Python reads names as UTF-8 unless it is told not to; what is then read otherwise would be another prompt."""
    odd = within(place, "here")
    make_category(odd.root / "Gehäuse", 1)

    def misread() -> None:
        sys.getfilesystemencoding = lambda: encoding

    ended = run(odd, odd.words(), misread)
    assert ended.code == 1
    (complaint,) = ended.complaints
    assert all(word in complaint for word in (str(odd.root), "Geh", encoding, "PYTHONUTF8=1"))
    assert not list(odd.results.rglob("records/*/*/*.json"))
    (odd.root / "Gehäuse").rename(odd.root / "Gehaeuse")
    assert run(odd, odd.words(), misread).code == 0
