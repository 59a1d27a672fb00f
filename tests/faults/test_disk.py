"""Disks that are full or read-only, and folders that go away: one sentence, nothing half-written, and it continues."""

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.harness import Fault, Place, assert_whole, run, temporary_files, tree
from winclip_bench import runner
from winclip_bench.data import Category
from winclip_bench.evaluation import Result
from winclip_bench.pipelines.shared import Evaluation


def continues(place: Place, undisturbed: dict[str, bytes]) -> None:
    """What there is is whole, and without the fault the same command ends as if there had been none."""
    assert temporary_files(place) == []
    assert_whole(place)
    ended = run(place, place.words())
    assert ended.code == 0, ended.err
    assert tree(place.results) == undisturbed


def refusing(folder: Path, ending: str, code: int) -> Fault:
    """The file system refuses, in the middle of them, files below a folder whose names end so."""

    def arm() -> None:
        replace = Path.replace

        def refuse(self: Path, target: Path) -> Path:
            if target.is_relative_to(folder) and target.match(f"*{ending}"):
                raise OSError(code, os.strerror(code))
            return replace(self, target)

        Path.replace = refuse  # type: ignore[assignment, method-assign]

    return arm


def test_a_disk_that_is_full_for_what_can_be_done_without(place: Place, undisturbed: dict[str, bytes]) -> None:
    """Features, digests, pictures and the page cost a warning each and no number."""
    refused = [
        (place.cache, ".npy"),
        (place.cache, "file-digests.json"),
        (place.results, ".webp"),
        (place.results, "index.html"),
    ]
    ended = run(place, place.words(), *(refusing(folder, ending, errno.ENOSPC) for folder, ending in refused))
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    said = ["features are not kept on disk", "bolt: without pictures", "wood_panel: without pictures", "no page"]
    assert len(ended.warnings) == len(said)
    for words, warning in zip(said, ended.warnings, strict=True):
        assert words in warning
        assert os.strerror(errno.ENOSPC) in warning
    lacking = {name for name in undisturbed if name.startswith("pictures") or name.endswith(".html")}
    assert {name: undisturbed[name] for name in undisturbed.keys() - lacking} == {
        name: content for name, content in tree(place.results).items() if name not in lacking
    }
    continues(place, undisturbed)


@pytest.mark.parametrize(("ending", "finished"), [("bolt.json", 1), (".tex", 2)])
def test_a_disk_that_is_full_for_results(
    place: Place, undisturbed: dict[str, bytes], ending: str, finished: int
) -> None:
    ended = run(place, place.words(), refusing(place.results, ending, errno.ENOSPC))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    (complaint,) = ended.complaints
    assert all(words in complaint for words in (ending, os.strerror(errno.ENOSPC), "make room"))
    assert len(list(place.results.glob("records/*/*/*.json"))) == finished
    continues(place, undisturbed)


def test_files_that_may_not_be_large(place: Place, undisturbed: dict[str, bytes]) -> None:
    """A limit of the shell or the batch system: the system itself stops a file after so many bytes."""
    limit = (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    ended = run(place, place.words(), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert len(ended.complaints) == 2
    assert all(".npz (File too large)" in complaint for complaint in ended.complaints)
    assert ["features are not kept" in warning for warning in ended.warnings] == [True]
    continues(place, undisturbed)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A small disk of its own."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def mount(*words: object) -> None:
    """Mount, or skip the test where that is not permitted."""
    try:
        subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount: {error}")


def test_a_disk_that_really_is_full(place: Place, undisturbed: dict[str, bytes]) -> None:
    maps = [len(content) for name, content in undisturbed.items() if name.endswith(".npz")]
    assert len(maps) == 2
    with mounted(place.results, max(maps) + min(maps) // 2), mounted(place.cache, 500_000):
        ended = run(place, place.words())
        assert ended.code == 1
        assert "Traceback" not in ended.err
        assert ended.complaints
        assert all(os.strerror(errno.ENOSPC) in complaint for complaint in ended.complaints)
        assert ["features are not kept" in warning for warning in ended.warnings].count(True) == 1
        assert tree(place.results).items() - undisturbed.items() <= reports(place, undisturbed)
        mount("-o", "remount,size=50m", place.results)
        mount("-o", "remount,size=50m", place.cache)
        continues(place, undisturbed)


def reports(place: Place, undisturbed: dict[str, bytes]) -> set[tuple[str, bytes]]:
    """Tables and pages, which say what is lacking."""
    return {
        (name, content) for name, content in tree(place.results).items() if name.startswith(("tables", "page", "index"))
    }


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be changed in a folder, not even by root."""
    if os.getuid() == 0:
        mount("--bind", folder, folder)
        try:
            mount("-o", "remount,ro,bind", folder)
            yield
        finally:
            subprocess.run(["umount", folder], check=True)
    else:
        modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for path, mode in modes.items():
                path.chmod(mode)


def test_a_store_that_is_read_only(place: Place, undisturbed: dict[str, bytes]) -> None:
    """Empty, it costs a warning; full, it serves as any."""
    place.cache.mkdir()
    with read_only(place.cache):
        ended = run(place, place.words())
        assert ended.code == 0, ended.err
        assert ["features are not kept" in warning for warning in ended.warnings] == [True]
        assert tree(place.results) == undisturbed
    shutil.rmtree(place.results)
    continues(place, undisturbed)
    shutil.rmtree(place.results)
    with read_only(place.cache):
        ended = run(place, place.words())
    assert ended.code == 0, ended.err
    assert ended.warnings == []
    assert "0 images encoded" in ended.err
    assert tree(place.results) == undisturbed


def test_results_that_are_read_only(place: Place, undisturbed: dict[str, bytes]) -> None:
    place.results.mkdir()
    with read_only(place.results):
        ended = run(place, place.words())
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert line.startswith(f"error: results_dir={place.results} cannot be written to")
    assert not (place.cache / "features").exists(), "something was computed in vain"
    continues(place, undisturbed)


def before(category: str, action: Fault) -> Fault:
    """Do something when a category is about to be evaluated, after those before it have been recorded."""

    def arm() -> None:
        evaluate = runner.evaluate

        def disturbed(evaluation: Evaluation, one: Category) -> Result:
            if one.name == category:
                action()
            return evaluate(evaluation, one)

        runner.evaluate = disturbed

    return arm


def test_the_right_to_write_is_lost_half_way(place: Place, undisturbed: dict[str, bytes]) -> None:
    ended = run(place, place.words(), before("wood_panel", refusing(place.folder, "", errno.EACCES)))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    category, report = ended.complaints
    assert category.startswith(f"error: wood_panel: cannot write {place.results}")
    assert report.startswith(f"error: cannot write {place.results / 'tables'}")
    assert [path.stem for path in place.results.glob("records/*/*/*.json")] == ["bolt"]
    continues(place, undisturbed)


def test_results_deleted_under_a_run(place: Place, undisturbed: dict[str, bytes]) -> None:
    """What has gone is not finished, whatever the run remembers."""
    ended = run(place, place.words(), before("wood_panel", lambda: shutil.rmtree(place.results)))
    assert ended.code == 1
    (complaint,) = ended.complaints
    assert complaint.startswith("error: bolt: its record has gone from")
    assert "mean (1 of 2)" in ended.out
    continues(place, undisturbed)


def test_the_cache_deleted_under_a_run(place: Place, undisturbed: dict[str, bytes]) -> None:
    ended = run(place, place.words(), before("wood_panel", lambda: shutil.rmtree(place.cache)))
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert tree(place.results) == undisturbed
    continues(place, undisturbed)
