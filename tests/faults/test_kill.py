"""SIGKILL at any moment: what stands under its final name is whole, and the same command ends with the same results."""

import signal

import pytest

from tests.faults.harness import Events, Place, assert_whole, drawn, kill, killed_half_way, run, tree

# How often the quick run is killed in each stage.
POINTS = {"reading": 4, "encoding": 9, "storing": 11, "scoring": 8, "recording": 9, "reporting": 9}


def continues(place: Place, undisturbed: dict[str, bytes]) -> None:
    """What a killed run has left is whole, and the same command makes good what is lacking."""
    assert_whole(place)
    left = tree(place.results)
    assert left.items() <= undisturbed.items()
    ended = run(place, place.words())
    assert ended.code == 0, ended.err
    assert ended.complaints + ended.warnings == []
    assert tree(place.results) == undisturbed
    assert_whole(place)


def test_points_are_drawn_in_every_stage(events: dict[str, int]) -> None:
    assert sum(POINTS.values()) >= 50
    assert events.keys() == POINTS.keys()
    for stage, count in events.items():
        points = {drawn(stage, count, index) for index in range(POINTS[stage])}
        assert len(points) == POINTS[stage], f"{stage} has {count} events"


@pytest.mark.parametrize(("stage", "index"), [(stage, index) for stage in POINTS for index in range(POINTS[stage])])
def test_killed_anywhere(
    place: Place, undisturbed: dict[str, bytes], events: dict[str, int], stage: str, index: int
) -> None:
    point = drawn(stage, events[stage], index)
    ended = run(place, place.words(), Events().at(stage, point, kill()))
    assert ended.code == -signal.SIGKILL, f"event {point} of {events[stage]} was not reached:\n{ended.err}"
    continues(place, undisturbed)


HALVES = {
    "an array": ("cache", ".npy"),
    "a manifest": ("cache", "[0-9a-f].json"),
    "digests": ("cache", "file-digests.json"),
    "scores": ("results", ".scores.csv"),
    "a record": ("results", "wood_panel.json"),
    "a table": ("results", ".tex"),
    "the page": ("results", "index.html"),
}


@pytest.mark.parametrize("file", HALVES)
def test_killed_in_the_middle_of_writing(place: Place, undisturbed: dict[str, bytes], file: str) -> None:
    folder, ending = HALVES[file]
    ended = run(place, place.words(), killed_half_way(place.folder / folder, ending))
    assert ended.code == -signal.SIGKILL, ended.err
    continues(place, undisturbed)
