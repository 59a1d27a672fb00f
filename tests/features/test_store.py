"""The feature store: what is computed once is read for ever, and a disk that refuses costs a warning."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from winclip_bench.features import FeatureStore, Geometry, model_key, shards, store
from winclip_bench.features.shards import Item

MODEL = {"architecture": "tiny", "weights": "0" * 64, "precision": "fp32"}
ITEMS = [Item("a", 2, {"n": 1}), Item("b", 1, {"n": 2})]
ROWS = np.linspace(0, 1, 12).reshape(3, 4)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def check(features: FeatureStore, dtype: type = np.float32) -> None:
    """The store has what was added to it."""
    assert features.missing(["patches"], "ab") == {}
    np.testing.assert_array_equal(features.rows("patches", "a"), ROWS[:2].astype(dtype))
    np.testing.assert_array_equal(features.rows("patches", "b"), ROWS[2:].astype(dtype))
    assert features.rows("patches", "a").dtype == dtype
    assert [features.about("patches", key) for key in "ab"] == [{"n": 1}, {"n": 2}]


def test_missing_keys_stand_in_their_order_and_once() -> None:
    features = FeatureStore(None, MODEL)
    features.add("image", [Item("b", 1, {})], ROWS[:1])
    assert features.missing(["image", "patches"], "cbacb") == {"image": ["c", "a"], "patches": ["c", "b", "a"]}
    with pytest.raises(KeyError):
        features.rows("image", "a")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kept", [True, False], ids=["disk", "memory"])
def test_returns_what_was_stored_not_what_was_computed(tmp_path: Path, dtype: type, kept: bool) -> None:
    features = FeatureStore(tmp_path if kept else None, MODEL, dtype)
    features.add("patches", ITEMS, ROWS)
    check(features, dtype)
    if kept:
        check(FeatureStore(tmp_path, MODEL, dtype), dtype)


def test_every_value_of_the_key_is_another_folder(tmp_path: Path) -> None:
    FeatureStore(tmp_path, MODEL).add("patches", ITEMS, ROWS)
    assert FeatureStore(tmp_path, dict(reversed(MODEL.items()))).missing(["patches"], "ab") == {}
    for key in MODEL:
        assert FeatureStore(tmp_path, MODEL | {key: "another"}).missing(["patches"], "ab") == {"patches": ["a", "b"]}


def test_lies_where_it_says(tmp_path: Path) -> None:
    FeatureStore(tmp_path, MODEL).add("patches", ITEMS, ROWS)
    folder = tmp_path / "features" / model_key(MODEL)
    assert {path.relative_to(folder).parts[0] for path in files(folder)} == {"model.json", "patches"}


def test_forgets_memory_and_not_the_disk(tmp_path: Path) -> None:
    in_memory, on_disk = FeatureStore(None, MODEL), FeatureStore(tmp_path, MODEL)
    for features in (in_memory, on_disk):
        features.add("patches", ITEMS, ROWS)
        features.forget()
    assert in_memory.missing(["patches"], "ab") == {"patches": ["a", "b"]}
    check(on_disk)


def test_forgetting_closes_files(tmp_path: Path) -> None:
    """A sweep opens more shards than a process may have files."""
    features = FeatureStore(tmp_path, MODEL)
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("counts open files as Linux shows them")
    before = len(list(folder.iterdir()))
    for index in range(20):
        features.add("image", [Item(str(index), 1, {})], ROWS[:1])
        features.forget()
    assert len(list(folder.iterdir())) == before
    assert features.missing(["image"], map(str, range(20))) == {}


def test_reading_marks_as_used(tmp_path: Path) -> None:
    FeatureStore(tmp_path, MODEL).add("patches", ITEMS, ROWS)
    description = tmp_path / "features" / model_key(MODEL) / "model.json"
    os.utime(description, (1, 1))
    FeatureStore(tmp_path, MODEL).missing(["patches"], "c")
    assert description.stat().st_mtime == 1
    FeatureStore(tmp_path, MODEL).missing(["patches"], "a")
    assert description.stat().st_mtime > 1


def full_at_fsync(patch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", refuse)


def full_at_write(patch: pytest.MonkeyPatch) -> None:
    """The device is full after the header."""
    save = shards._save

    def refuse(file: Any, array: Any) -> None:
        save(file, array[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(shards, "_save", refuse)


def read_only(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    patch.setattr(Path, "mkdir", refuse)
    patch.setattr(Path, "open", refuse)


def not_searchable(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: object) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    patch.setattr(Path, "exists", refuse)


REFUSALS = [full_at_fsync, full_at_write, read_only, not_searchable]


@pytest.fixture(params=REFUSALS, ids=lambda refusal: refusal.__name__)
def refusing(request: pytest.FixtureRequest) -> Iterator[pytest.MonkeyPatch]:
    """A file system that takes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        request.param(patch)
        yield patch


def test_a_disk_that_refuses_costs_one_warning(
    tmp_path: Path, refusing: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        features = FeatureStore(tmp_path, MODEL)
        features.add("patches", ITEMS, ROWS)
        features.add("image", ITEMS, ROWS)
        FeatureStore(tmp_path, MODEL | {"prompts": True}).add("prompts", ITEMS, ROWS)
    refusing.undo()
    assert len(caplog.messages) == 1
    assert str(tmp_path) in caplog.messages[0]
    check(features)
    assert features.missing(["image"], "ab") == {}
    assert {path.name for path in files(tmp_path)} <= {"model.json"}
    assert FeatureStore(tmp_path, MODEL).missing(["patches"], "ab") == {"patches": ["a", "b"]}


def test_what_is_stored_is_still_read_from_a_disk_that_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureStore(tmp_path, MODEL).add("patches", ITEMS, ROWS)
    full_at_fsync(monkeypatch)
    features = FeatureStore(tmp_path, MODEL)
    check(features)
    assert caplog.messages == []
    features.add("patches", [Item("c", 1, {})], ROWS[:1])
    assert len(caplog.messages) == 1
    check(features)
    assert features.missing(["patches"], "abc") == {}


def test_a_file_in_place_of_the_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "features").write_text("")
    features = FeatureStore(tmp_path, MODEL)
    features.add("patches", ITEMS, ROWS)
    check(features)
    assert len(caplog.messages) == 1


def test_a_shard_that_does_not_read_back_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Callable[..., None] = shards.Shards.write

    def corrupting(self: shards.Shards, items: Any, array: Any) -> None:
        write(self, items, array)
        for path in self.folder.glob("*.npy"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(store.Shards, "write", corrupting)
    features = FeatureStore(tmp_path, MODEL)
    features.add("patches", ITEMS, ROWS)
    check(features)


def test_geometry_survives_json() -> None:
    geometry = Geometry(((0, 0), (0, 30)), (80, 110), (220, 160))
    about = {"corners": [[0, 0], [0, 30]], "size": [80, 110], "original_size": [220, 160]}
    assert Geometry.of(about) == geometry
    with pytest.raises((KeyError, TypeError, ValueError)):
        Geometry.of({"corners": 3})
