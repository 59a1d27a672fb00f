"""Commands that share folders at the same time, what a dead one has left, and clocks that jump."""

import os
import shutil
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from tests.faults.harness import Place, assert_whole, clear, killed_half_way, run, start, temporary_files, tree
from winclip_bench.features.__main__ import main as features
from winclip_bench.report import tables
from winclip_bench.report.page import pages

DAY = 86400
FUTURE = 4102444800  # 2100
PATIENCE = 30.0  # seconds until one command no longer waits for another


@pytest.fixture(scope="module")
def in_turn(ground: tuple[Place, dict[str, bytes]]) -> dict[str, bytes]:
    """What two commands leave, one after the other."""
    place, _ = ground
    clear(place)
    for words in (place.words("k_shot=0"), place.words("k_shot=1")):
        assert run(place, words).code == 0
    left = tree(place.results)
    clear(place)
    return left


def test_two_sweeps_at_once(place: Place, in_turn: dict[str, bytes]) -> None:
    both = [start(place, place.words("k_shot=0")), start(place, place.words("k_shot=1"))]
    for child in both:
        ended = child.wait()
        assert ended.code == 0, ended.err
    assert tree(place.results) == in_turn
    assert temporary_files(place) == []
    assert_whole(place)


@pytest.mark.parametrize(("module", "file"), [(tables, "overview.md"), (pages, "index.html")])
def test_the_last_to_write_has_seen_everything(
    place: Place, in_turn: dict[str, bytes], module: object, file: str
) -> None:
    """One has read all records and is held up before it writes; meanwhile another one records, reports and ends."""
    waits, goes = place.folder / "waits", place.folder / "goes"

    def hold_up() -> None:
        write = tables.write_atomically

        def late(path: Path, content: bytes) -> None:
            if path.name == file and not waits.exists():
                waits.touch()
                wait_for(goes)
            write(path, content)

        module.write_atomically = late  # type: ignore[attr-defined]

    slow = start(place, place.words("k_shot=0"), hold_up)
    wait_for(waits)
    ended = run(place, place.words("k_shot=1"))
    goes.touch()
    assert ended.code == 0, ended.err
    assert slow.wait().code == 0
    assert tree(place.results) == in_turn


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_same_command_twice_at_once(place: Place, undisturbed: dict[str, bytes]) -> None:
    for child in [start(place, place.words()), start(place, place.words())]:
        ended = child.wait()
        assert ended.code == 0, ended.err
        assert ended.complaints == []
    assert tree(place.results) == undisturbed
    assert_whole(place)


def test_one_dies_beside_another(place: Place, undisturbed: dict[str, bytes]) -> None:
    """What it held, half a shard, hinders nobody, and is taken away when it is old."""
    dying = start(place, place.words(), killed_half_way(place.cache, ".npy"))
    living = start(place, place.words())
    assert dying.wait().code == -signal.SIGKILL
    assert living.wait().code == 0
    assert tree(place.results) == undisturbed
    assert_whole(place)
    assert len(temporary_files(place)) > 1


def test_what_the_dead_have_left_in_the_cache_is_evicted(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in ("file-digests.json", ".npy"):
        assert run(place, place.words(), killed_half_way(place.cache, ending)).code == -signal.SIGKILL
    left = [path for path in place.cache.rglob(".*") if path.is_file()]
    assert len(left) == 2
    for path in left:
        os.utime(path, (time.time() - DAY, time.time() - DAY))
    assert features(["evict", "--cache-dir", str(place.cache)]) == 0
    assert [path for path in left if path.exists()] == []


# Clocks


def backwards() -> None:
    """Every look at the clock is a day earlier than the last one."""
    now = time.time()
    days = count()
    time.time = lambda: now - DAY * next(days)
    time.time_ns = lambda: int(time.time() * 1e9)


def test_clocks_that_jump(place: Place, undisturbed: dict[str, bytes]) -> None:
    """During a run, between runs, and as files from elsewhere bring it."""
    ended = run(place, place.words(), backwards)
    assert ended.code == 0, ended.err
    assert tree(place.results) == undisturbed
    for number, path in enumerate([*place.cache.rglob("*"), *place.results.rglob("*")]):
        os.utime(path, (FUTURE, FUTURE) if number % 2 else (0, 0))
    again = run(place, place.words(), backwards)
    assert again.code == 0, again.err
    assert again.err.count("finished before") == 2
    shutil.rmtree(place.results)
    stored = run(place, place.words(), backwards)
    assert stored.code == 0, stored.err
    assert stored.err.count(" 0 images encoded") == 2
    assert tree(place.results) == undisturbed
