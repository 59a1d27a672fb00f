"""Data that are edited, added and removed between runs and during one: noticed, and never silently mixed."""

import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.builders import paint
from tests.faults.harness import Fault, Place, clear, run, tree
from tests.helpers import read_records
from winclip_bench import runner
from winclip_bench.data import Category
from winclip_bench.evaluation import Result
from winclip_bench.pipelines.shared import Evaluation

Change = Callable[[Path], object]  # of the folder of a category


def copied(place: Place) -> Place:
    """The place with a dataset of its own, which may be changed."""
    return Place(place.folder, shutil.copytree(place.root, place.folder / "parts"))


@pytest.fixture(scope="module")
def unchanged(ground: tuple[Place, dict[str, bytes]]) -> dict[str, bytes]:
    """What the quick run leaves of the copy before it is changed."""
    clear(ground[0])
    own = copied(ground[0])
    assert run(own, own.words()).code == 0
    left = tree(own.results)
    clear(own)
    return left


@pytest.fixture
def own(place: Place) -> Place:
    return copied(place)


def replaced(path: Path, make: Callable[[Path, int], object]) -> None:
    """Other content of the same size, at the same time: what looks at neither bytes nor inode sees no difference."""
    before, content = path.stat(), path.read_bytes()
    first = 1000 * zlib.crc32(str(path).encode())  # no two files become the same
    for seed in range(first, first + 1000):
        make(path, seed)
        if path.stat().st_size == before.st_size and path.read_bytes() != content:
            break
    else:
        raise AssertionError("no image of that size was found")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit_images(category: Path) -> None:
    edit_all(category / "test/good")


def edit_references(category: Path) -> None:
    edit_all(category / "train/good")


def edit_all(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        replaced(path, lambda path, seed: paint(path, seed, (64, 64)))


def edit_mask(category: Path) -> None:
    """One bit that no pixel depends on, of a checksum at the end: the bytes are others."""
    path = category / "ground_truth/crack/000_mask.png"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-5] ^= 1  # of the checksum of the last chunk
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def add_image(category: Path) -> None:
    paint(category / "test/good/009.png", 9, (64, 64))


def remove_image(category: Path) -> None:
    (category / "test/good/000.png").unlink()


def swap_images(category: Path) -> None:
    """Two files exchange their names, and nothing else."""
    first, second, aside = (category / "test/good" / name for name in ("000.png", "001.png", "aside"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def test_changes_between_runs(own: Place) -> None:
    """Each of them is another run, and the records of those before stay as they were."""
    assert run(own, own.words()).code == 0
    known = {name: content for name, content in tree(own.results).items() if name.startswith("records")}
    for change in (edit_images, edit_references, edit_mask, swap_images, add_image, remove_image):
        change(own.root / "bolt")
        runs = {run_id for run_id, _ in read_records(own.results)}
        ended = run(own, own.words())
        assert ended.code == 0, ended.err
        assert "finished before" not in ended.err
        new = {run_id for run_id, _ in read_records(own.results)} - runs
        assert len(new) == 1, change.__name__
        now = {name: content for name, content in tree(own.results).items() if name.startswith("records")}
        assert known.items() < now.items()
        known = now


def when(step: str, action: Fault) -> Fault:
    """Do something before ``bolt`` is evaluated, or between that and its pictures; files were hashed before."""

    def arm() -> None:
        evaluate, write_pictures = runner.evaluate, runner._write_pictures

        def disturbed(evaluation: Evaluation, category: Category) -> Result:
            if category.name == "bolt" and step == "evaluation":
                action()
            return evaluate(evaluation, category)

        def late(result: Result, results_dir: Path) -> None:
            if result.record.category == "bolt" and step == "pictures":
                action()
            write_pictures(result, results_dir)

        runner.evaluate, runner._write_pictures = disturbed, late

    return arm


@pytest.mark.parametrize(
    ("change", "file", "words"),
    [
        (edit_images, "test/good/00", "has changed since the run began"),
        (edit_references, "train/good", "has changed since the run began"),
        (edit_mask, "ground_truth/crack/000_mask.png", "has changed since the run began"),
        (swap_images, "test/good/00", "has changed since the run began"),
        (remove_image, "test/good/000.png", "does not exist"),
    ],
)
def test_changes_during_a_run(own: Place, unchanged: dict[str, bytes], change: Change, file: str, words: str) -> None:
    """The category is refused, and the others are not; as it was, the same command finishes it."""
    as_it_was = shutil.copytree(own.root / "bolt", own.folder / "as it was")
    ended = run(own, own.words(), when("evaluation", lambda: change(own.root / "bolt")))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    (complaint,) = ended.complaints
    assert complaint.startswith(f"error: bolt: {own.root / 'bolt' / file}")
    assert words in complaint
    assert [path.stem for path in own.results.glob("records/*/*/*.json")] == ["wood_panel"]
    shutil.rmtree(own.root / "bolt")
    as_it_was.rename(own.root / "bolt")
    again = run(own, own.words())
    assert again.code == 0, again.err
    assert tree(own.results) == unchanged


def test_an_image_that_is_added_during_a_run_is_the_next_ones(own: Place, unchanged: dict[str, bytes]) -> None:
    ended = run(own, own.words(), when("evaluation", lambda: add_image(own.root / "bolt")))
    assert ended.code == 0, ended.err
    assert tree(own.results) == unchanged
    again = run(own, own.words())
    assert again.code == 0, again.err
    assert "bolt: 5 test images" in again.err


def test_an_image_that_changes_before_its_picture_is_made(own: Place, unchanged: dict[str, bytes]) -> None:
    """Numbers are those of the image that was hashed; its successor is not shown in its place."""
    ended = run(own, own.words(), when("pictures", lambda: edit_images(own.root / "bolt")))
    assert ended.code == 0, ended.err
    (warning,) = ended.warnings
    assert warning.startswith(f"warning: bolt: without pictures: {own.root / 'bolt/test/good/00'}")
    assert "has changed" in warning
    left = tree(own.results)
    shown = {name: content for name, content in left.items() if name.startswith("pictures")}
    assert shown.items() <= unchanged.items()
    record = next(name for name in left if name.endswith("/bolt.json"))
    assert left[record] == unchanged[record]
