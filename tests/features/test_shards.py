"""Shards: what was written is what is read, and what is damaged is noticed, said, deleted and written again."""

import io
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from winclip_bench.features.shards import Item, Shards

ITEMS = [Item("a", 2, {"corners": [[0, 0], [0, 4]]}), Item("b", 1, {})]
ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one shard of `ITEMS` and `ROWS`."""
    Shards(tmp_path / "kind").write(ITEMS, ROWS)
    return tmp_path / "kind"


def only(folder: Path, ending: str) -> Path:
    (path,) = folder.glob(f"*{ending}")
    return path


def edit(folder: Path, **changes: Any) -> None:
    """Change values of the only manifest."""
    path = only(folder, ".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_reads_what_was_written(folder: Path) -> None:
    shards = Shards(folder)
    assert shards.find(["b", "c", "a"]) == {item.key: item.about for item in ITEMS}
    np.testing.assert_array_equal(shards.rows("a"), ROWS[:2])
    np.testing.assert_array_equal(shards.rows("b"), ROWS[2:])
    assert isinstance(shards.rows("a"), np.memmap)
    assert not shards.rows("a").flags.writeable
    assert shards.keys() == {"a", "b"}
    with pytest.raises(KeyError):
        shards.rows("c")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_survive(tmp_path: Path, dtype: type) -> None:
    info = np.finfo(dtype)
    row = np.array([[0.0, -0.0, info.max, info.smallest_subnormal, np.inf, np.nan]], dtype)
    Shards(tmp_path).write([Item("a", 1, {})], row)
    shards = Shards(tmp_path)
    shards.find(["a"])
    assert shards.rows("a").dtype == dtype
    assert shards.rows("a").tobytes() == row.tobytes()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=[])), unique=True, min_size=1, max_size=4))
def test_any_text_is_a_key(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    """Prompts are keys: line breaks, quotes, slashes, lone surrogates, nothing at all."""
    folder = tmp_path_factory.mktemp("shards")
    rows = np.arange(len(keys), dtype=np.float32)[:, None]
    Shards(folder).write([Item(key, 1, {}) for key in keys], rows)
    shards = Shards(folder)
    assert shards.find(keys).keys() == set(keys)
    assert [float(shards.rows(key)[0, 0]) for key in keys] == list(range(len(keys)))


def test_keys_that_look_alike_when_joined_are_different_shards(tmp_path: Path) -> None:
    shards = Shards(tmp_path)
    shards.write([Item("a", 1, {}), Item("b", 1, {})], np.array([[1.0], [2.0]]))
    shards.write([Item("a\nb", 1, {})], np.array([[3.0]]))
    assert shards.find(["a", "b", "a\nb"]).keys() == {"a", "b", "a\nb"}
    assert [shards.rows(key)[0, 0] for key in ("a", "b", "a\nb")] == [1, 2, 3]


def test_rows_must_belong_to_items(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 rows for items of 2"):
        Shards(tmp_path).write([Item("a", 2, {})], ROWS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_the_shard_is_left(folder: Path) -> None:
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy"]
    assert only(folder, ".json").stem == only(folder, ".npy").stem


def test_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that is killed after the array has stored nothing."""
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.suffix == ".json":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Shards(tmp_path).write(ITEMS, ROWS)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    shards = Shards(tmp_path)
    assert shards.find(["a"]) == {}
    shards.write(ITEMS, ROWS)
    assert shards.find(["a"]).keys() == {"a"}


def damage_truncated(folder: Path) -> None:
    path = only(folder, ".npy")
    path.write_bytes(path.read_bytes()[:-1])


def damage_emptied(folder: Path) -> None:
    only(folder, ".npy").write_bytes(b"")


def damage_longer(folder: Path) -> None:
    """Bytes after the array's end change nothing that is read, but its header may say more rows than there were."""
    path = only(folder, ".npy")
    path.write_bytes(path.read_bytes().replace(b"(3, 4)", b"(4, 4)") + bytes(16))


def damage_bit_of_a_row(folder: Path) -> None:
    flip(only(folder, ".npy"), -1)


def damage_order(folder: Path) -> None:
    path = only(folder, ".npy")
    path.write_bytes(path.read_bytes().replace(b"False", b"True "))


def damage_array_gone(folder: Path) -> None:
    only(folder, ".npy").unlink()


def damage_archive(folder: Path) -> None:
    np.savez(only(folder, ".npy").open("wb"), ROWS)


def damage_objects(folder: Path) -> None:
    """An array of Python objects, whose reading would run what it says, and a manifest that fits it."""
    array = np.array([[Trap(folder / "sprung")]], dtype=object)
    np.save(only(folder, ".npy"), array, allow_pickle=True)
    edit(folder, dtype="|O", shape=[1, 1], items=[{"key": "a", "rows": 1, "about": {}}])


def damage_pickle(folder: Path) -> None:
    only(folder, ".npy").write_bytes(pickle.dumps(Trap(folder / "sprung")))


def damage_huge_array(folder: Path) -> None:
    path, shape = only(folder, ".npy"), (10**30, 10**30)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    path.write_bytes(file.getvalue())
    edit(folder, shape=list(shape), items=[{"key": "a", "rows": 10**30, "about": {}}])


def damage_header(folder: Path) -> None:
    path = only(folder, ".npy")
    path.write_bytes(path.read_bytes()[:10] + b"(" * 118 + ROWS.tobytes())


def damage_manifest_truncated(folder: Path) -> None:
    path = only(folder, ".json")
    path.write_bytes(path.read_bytes()[:-10])


def damage_manifest_foreign(folder: Path) -> None:
    only(folder, ".json").write_text("[1, 2, 3]")


def damage_manifest_bytes(folder: Path) -> None:
    only(folder, ".json").write_bytes(b"\xff\xfe\x00")


def damage_manifest_deep(folder: Path) -> None:
    only(folder, ".json").write_text("[" * 100_000)


def damage_manifest_huge(folder: Path) -> None:
    with only(folder, ".json").open("r+b") as file:
        file.truncate(2**40)  # sparse


def damage_format(folder: Path) -> None:
    edit(folder, format=0)


def damage_too_few_rows(folder: Path) -> None:
    edit(folder, items=[{"key": "a", "rows": 2, "about": {}}])


def damage_negative_rows(folder: Path) -> None:
    items = [{"key": "a", "rows": 4, "about": {}}, {"key": "b", "rows": -1, "about": {}}]
    edit(folder, items=items)


def damage_items_exchanged(folder: Path) -> None:
    """Every value is well-formed, and the rows would be another image's."""
    path = only(folder, ".json")
    content = json.loads(path.read_text())
    content["items"][0]["key"], content["items"][1]["key"] = "b", "a"
    path.write_text(json.dumps(content))


def damage_about(folder: Path) -> None:
    path = only(folder, ".json")
    path.write_text(path.read_text().replace("[0, 4]", "[0, 5]"))


def damage_shape(folder: Path) -> None:
    edit(folder, shape=[3, 5])


def damage_dtype(folder: Path) -> None:
    edit(folder, dtype="<f8")


DAMAGES = [damage for name, damage in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.removeprefix("damage_"))
def test_damage_is_noticed_said_deleted_and_made_good(
    folder: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder)
    assert len(Shards(folder).verify()) == 1
    assert list(folder.glob("*.json")), "verifying deletes nothing"

    shards = Shards(folder)
    with caplog.at_level(logging.WARNING):
        assert shards.find(["a", "b"]) == {}
        assert shards.find(["a", "b"]) == {}
    assert len(caplog.messages) == 1
    assert "\n" not in caplog.messages[0]
    assert str(folder) in caplog.messages[0]
    assert list(folder.iterdir()) == []

    shards.write(ITEMS, ROWS)
    for reader in (shards, Shards(folder)):
        assert reader.find(["a", "b"]).keys() == {"a", "b"}
        np.testing.assert_array_equal(reader.rows("a"), ROWS[:2])
    assert Shards(folder).verify() == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_changes_what_is_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Either the shard counts as not stored, or what it says is what was written."""
    folder = tmp_path_factory.mktemp("flipped") / "model" / "image"  # a manifest holds both names
    Shards(folder).write(ITEMS, ROWS)
    path = only(folder, data.draw(st.sampled_from([".npy", ".json"])))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    shards = Shards(folder)
    for key, about in shards.find(["a", "b"]).items():
        item, rows = (ITEMS[0], ROWS[:2]) if key == "a" else (ITEMS[1], ROWS[2:])
        assert about == item.about
        assert shards.rows(key).tobytes() == rows.tobytes()


def test_what_cannot_be_read_is_passed_over_but_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be whole and another user's, or this process has too many files open."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "open_memmap", refuse)
        assert Shards(folder).find(["a"]) == {}
    assert len(caplog.messages) == 1
    assert "Permission denied" in caplog.messages[0]
    assert Shards(folder).find(["a"]).keys() == {"a"}


def test_damage_that_cannot_be_deleted_is_said_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage_bit_of_a_row(folder)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    shards = Shards(folder)
    assert shards.find(["a"]) == {}
    assert shards.find(["a"]) == {}
    assert len(caplog.messages) == 1


def test_closed_files_are_opened_again(folder: Path) -> None:
    shards = Shards(folder)
    shards.find(["a"])
    shards.close()
    np.testing.assert_array_equal(shards.rows("a"), ROWS[:2])


def test_a_damaged_copy_does_not_hide_what_comes_later(folder: Path) -> None:
    """Two shards may hold the same item, written by processes that began with different ones."""
    shards = Shards(folder)
    shards.write([Item("a", 2, {})], ROWS[:2])
    assert len(shards.manifests()) == 2
    assert shards.find(["a", "b"]).keys() == {"a", "b"}
    np.testing.assert_array_equal(shards.rows("a"), ROWS[:2])


WRITER = """
import sys
from pathlib import Path
import numpy as np
from winclip_bench.features.shards import Item, Shards
for _ in range(8):
    for name in sys.argv[2]:
        Shards(Path(sys.argv[1])).write([Item(name, 1, {})], np.full((1, 1000), ord(name), np.float32))
"""


def test_the_same_items_encoded_otherwise_lie_beside_the_first(folder: Path) -> None:
    """As by another batch size: neither overwrites the other, which a reader in between would take for damage."""
    first = Shards(folder)
    assert first.find(["a"])
    Shards(folder).write(ITEMS, ROWS + 1)
    assert len(list(folder.glob("*.npy"))) == len(list(folder.glob("*.json"))) == 2
    assert Shards(folder).verify() == []
    first.close()
    assert first.find(["a"])
    assert (first.rows("a") == ROWS[:2]).all()


def test_what_was_found_stays_where_it_was_found(folder: Path) -> None:
    """Although another process stores it once more, and that is evicted before it has been read."""
    shards = Shards(folder)
    assert shards.find(["a"])
    before = set(folder.iterdir())
    Shards(folder).write([*ITEMS, Item("c", 1, {})], np.ones((4, 4), np.float32))
    assert shards.find(["c"])  # reads the new manifest
    for path in set(folder.iterdir()) - before:
        path.unlink()
    shards.close()
    assert (shards.rows("a") == ROWS[:2]).all()


def test_what_comes_back_while_it_is_missed_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that another process writes again after this one has missed it is not deleted."""
    array = only(folder, ".npy")
    content = array.read_bytes()
    array.unlink()
    unlink = Path.unlink

    def late(self: Path, missing_ok: bool = False) -> None:
        array.write_bytes(content)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", late)
    assert Shards(folder).find(["a"]) == {}
    assert array.read_bytes() == content


def test_processes_write_the_same_and_different_shards_at_once(tmp_path: Path) -> None:
    """Whatever a reader finds meanwhile is whole; in the end everything is there."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, names]) for names in ("abc", "bcd")]
    while any(writer.poll() is None for writer in writers):
        shards = Shards(tmp_path)
        for key in shards.find("abcd"):
            assert (shards.rows(key) == ord(key)).all()
        assert shards.verify() == []
    assert [writer.returncode for writer in writers] == [0, 0]
    assert Shards(tmp_path).find("abcd").keys() == set("abcd")
    assert len(list(tmp_path.iterdir())) == 8
