"""Digests know the content and nothing else; the cache saves the reading and changes nothing."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data.builders import paint
from winclip_bench.data import UNREADABLE, Dataset, Digests, content_digests, digests, open_dataset


def of(root: Path, cache_dir: Path | None = None) -> Digests:
    return content_digests(open_dataset("mvtec", root, "mvtec"), cache_dir)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read; the cache trusts files of any age here."""
    read: list[Path] = []
    sha256 = digests.file_sha256

    def spy(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr(digests, "file_sha256", spy)
    monkeypatch.setattr(digests, "_TOO_YOUNG_NS", -(10**12))
    return read


def test_files_and_lines_by_hand(tmp_path: Path) -> None:
    root = tmp_path / "x"
    image = paint(root / "cup/test/crack/é 1.png")
    mask = paint(root / "cup/ground_truth/crack/é 1_mask.png", 1)
    good = paint(root / "cup/train/good/0.png", 2)
    sha256 = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in (image, mask, good)}
    found = of(root)
    assert found.files == sha256
    lines = [
        json.dumps(["cup", "test/crack/é 1.png", "test", "crack", sha256[image], sha256[mask]]),
        json.dumps(["cup", "train/good/0.png", "train", "good", sha256[good], None]),
    ]
    expected = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert found.categories == {"cup": expected}
    assert found.dataset == expected


def test_digest_does_not_know_where_and_when(mvtec: Path, tmp_path: Path) -> None:
    before = of(mvtec)
    moved = tmp_path / "another root"
    shutil.copytree(mvtec, moved)
    for path in moved.rglob("*.png"):
        os.utime(path, (1, 1))
    (moved / "bottle/.DS_Store").write_text("stray")
    after = of(moved)
    assert (after.dataset, after.categories) == (before.dataset, before.categories)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def relabel(root: Path) -> None:
    for folder in ("test", "ground_truth"):
        (root / f"bottle/{folder}/crack").rename(root / f"bottle/{folder}/cut")


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte of a test image": lambda root: flip_last_byte(root / "bottle/test/crack/000.png"),
    "a byte of a training image": lambda root: flip_last_byte(root / "bottle/train/good/002.png"),
    "a byte of a mask": lambda root: flip_last_byte(root / "bottle/ground_truth/dent/001_mask.png"),
    "a label": relabel,
    "a name": lambda root: (root / "bottle/train/good/000.png").rename(root / "bottle/train/good/zzz.png"),
    "an image less": lambda root: (root / "bottle/test/good/000.png").unlink(),
    "an image more": lambda root: paint(root / "bottle/test/good/999.png"),
    "a mask less": lambda root: (root / "bottle/ground_truth/dent/001_mask.png").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_changes_with(change: str, mvtec: Path) -> None:
    before = of(mvtec)
    CHANGES[change](mvtec)
    after = of(mvtec)
    assert after.dataset != before.dataset
    assert after.categories["bottle"] != before.categories["bottle"]
    assert after.categories["screw"] == before.categories["screw"]


def test_digest_changes_with_split_and_defect_alone(mvtec: Path) -> None:
    dataset = open_dataset("mvtec", mvtec, "mvtec", ["bottle"])
    (category,) = dataset.categories
    before = content_digests(dataset)

    def with_first(**fields: str) -> Dataset:
        test = (replace(category.test[0], **fields), *category.test[1:])
        return replace(dataset, categories=(replace(category, test=test),))

    assert content_digests(with_first(split="train")).dataset != before.dataset
    assert content_digests(with_first(defect="good")).dataset != before.dataset


@pytest.mark.parametrize("broken", ["link", "folder"])
def test_file_that_cannot_be_read_does_not_hinder_the_others(mvtec: Path, broken: str, tmp_path: Path) -> None:
    before = of(mvtec, tmp_path / "cache")
    dataset = open_dataset("mvtec", mvtec, "mvtec")
    path = mvtec / "bottle/test/crack/000.png"
    path.unlink()
    if broken == "link":
        path.symlink_to(mvtec / "nowhere.png")
    else:
        path.mkdir()
    after = content_digests(dataset, tmp_path / "cache")
    assert after.files[path] == UNREADABLE
    assert after.categories["bottle"] != before.categories["bottle"]
    assert after.categories["screw"] == before.categories["screw"]


# The cache


def test_second_time_nothing_is_read(mvtec: Path, tmp_path: Path, hashed: list[Path]) -> None:
    first = of(mvtec, tmp_path / "deep/cache")
    assert sorted(hashed) == sorted(first.files)
    hashed.clear()
    assert of(mvtec, tmp_path / "deep/cache") == first
    assert hashed == []
    assert [path.name for path in (tmp_path / "deep/cache").iterdir()] == ["file-digests.json"]


def test_only_what_changed_is_read_again(mvtec: Path, tmp_path: Path, hashed: list[Path]) -> None:
    of(mvtec, tmp_path / "cache")
    hashed.clear()
    changed = mvtec / "bottle/test/crack/000.png"
    times = changed.stat()
    flip_last_byte(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and mtime as before
    replaced = mvtec / "screw/test/good/000.png"
    paint(mvtec / "new.png", 99).replace(replaced)
    assert of(mvtec, tmp_path / "cache") == of(mvtec)
    assert sorted(set(hashed[:2])) == [changed, replaced]


def test_files_of_several_datasets_are_remembered(mvtec: Path, tmp_path: Path, hashed: list[Path]) -> None:
    shutil.copytree(mvtec, tmp_path / "copy")
    of(mvtec, tmp_path / "cache")
    of(tmp_path / "copy", tmp_path / "cache")
    hashed.clear()
    of(mvtec, tmp_path / "cache")
    of(tmp_path / "copy", tmp_path / "cache")
    assert hashed == []


def test_file_that_has_just_changed_is_not_trusted(
    mvtec: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_TOO_YOUNG_NS", 10**12)
    first = of(mvtec, tmp_path / "cache")
    assert of(mvtec, tmp_path / "cache") == first
    assert len(hashed) == 2 * len(first.files)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b'{"a": 1}', b'{"a": ["x", 1, 2, 3, "y"]}', b"\xff\xfe", b"null"]
)
def test_broken_cache_is_rewritten(mvtec: Path, tmp_path: Path, hashed: list[Path], content: bytes) -> None:
    path = tmp_path / "file-digests.json"
    path.write_bytes(content)
    first = of(mvtec, tmp_path)
    hashed.clear()
    assert of(mvtec, tmp_path) == first
    assert hashed == []


def test_cache_that_cannot_be_written_is_done_without(mvtec: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder/file-digests.json").mkdir(parents=True)
    assert of(mvtec, tmp_path / "file") == of(mvtec, tmp_path / "file/deeper") == of(mvtec)
    assert of(mvtec, tmp_path / "folder") == of(mvtec)


def test_failed_writing_leaves_the_old_cache_and_no_debris(
    mvtec: Path, tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    of(mvtec, cache)
    old = (cache / "file-digests.json").read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    flip_last_byte(mvtec / "bottle/test/crack/000.png")
    assert of(mvtec, cache) == of(mvtec)
    assert [path.name for path in cache.iterdir()] == ["file-digests.json"]
    assert (cache / "file-digests.json").read_bytes() == old
