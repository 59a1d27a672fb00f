"""Signals that ask a run to end: it says so in one line, keeps what is finished and leaves no debris."""

import os
import signal
from collections.abc import Callable

import pytest

from tests.faults.harness import Ended, Events, Fault, Place, assert_whole, drawn, kill, run, temporary_files, tree


def ended_politely(ended: Ended, number: signal.Signals, place: Place) -> None:
    """Exit code, one line that names the signal and the command, and no file that nobody will miss."""
    assert ended.code == 128 + number, ended.err
    assert "Traceback" not in ended.err
    assert "ignored" not in ended.err, "an exception was lost"
    (line,) = (line for line in ended.err.splitlines() if "what is finished is kept" in line)
    assert line.startswith("interrupted" if number == signal.SIGINT else f"stopped by {number.name}")
    assert "To continue: winclip-bench " in line
    assert temporary_files(place) == []


def continues(place: Place, undisturbed: dict[str, bytes]) -> None:
    """What was left is whole, the same command takes it as it is, and makes good what is lacking."""
    assert_whole(place)
    left = {name: (place.results / name).stat().st_mtime_ns for name in tree(place.results) if name.endswith(".json")}
    records = {name: stamp for name, stamp in left.items() if name.startswith("records")}
    ended = run(place, place.words())
    assert ended.code == 0, ended.err
    assert {name: (place.results / name).stat().st_mtime_ns for name in records} == records
    assert tree(place.results) == undisturbed


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGINT, "reading"),
        (signal.SIGHUP, "encoding"),
        (signal.SIGUSR1, "storing"),
        (signal.SIGXCPU, "scoring"),
        (signal.SIGTERM, "recording"),
        (signal.SIGINT, "reporting"),
    ],
)
def test_ended_by_a_signal(
    place: Place, undisturbed: dict[str, bytes], events: dict[str, int], number: signal.Signals, stage: str
) -> None:
    point = drawn(f"signal in {stage}", events[stage], 0)
    ended = run(place, place.words(), Events().at(stage, point, kill(number)))
    ended_politely(ended, number, place)
    continues(place, undisturbed)


def in_the_middle_of_a_file(action: Fault) -> None:
    """Do something when a file of features has been written and not yet renamed."""
    fsync = os.fsync
    armed = [True]

    def interrupted(file: int) -> None:
        fsync(file)
        if armed and armed.pop():
            action()

    os.fsync = interrupted


def both(first: signal.Signals, second: signal.Signals) -> Fault:
    """Two signals, before either is handled."""

    def send() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [first, second])
        os.kill(os.getpid(), second)
        os.kill(os.getpid(), first)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [first, second])

    return send


def again_while_tidying_up(first: signal.Signals, second: signal.Signals) -> Fault:
    """A second signal at the first file that is deleted after the first one."""

    def send() -> None:
        unlink = os.unlink

        def impatient(path: str) -> None:
            os.kill(os.getpid(), second)
            unlink(path)

        os.unlink = impatient  # type: ignore[assignment]
        os.kill(os.getpid(), first)

    return send


@pytest.mark.parametrize("how", [both, again_while_tidying_up])
@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGINT)])
def test_two_signals_are_as_one(
    place: Place, how: Callable[[signal.Signals, signal.Signals], Fault], first: signal.Signals, second: signal.Signals
) -> None:
    ended = run(place, place.words(), lambda: in_the_middle_of_a_file(how(first, second)))
    number = second if how is both and second < first else first
    ended_politely(ended, number, place)
