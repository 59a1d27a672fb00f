"""Records: what is written is read back, half-written or foreign files are never believed, names cannot climb."""

import csv
import errno
import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winclip_bench import records
from winclip_bench.errors import InputError
from winclip_bench.records import Record, Score

GOLDEN = Path(__file__).parent / "report" / "golden"
SCORES = [Score("test/good/000.png", "good", 0, 0.25), Score('test/a,"b"\n\udcff.png', "hole", 1, 1 / 3)]


@pytest.fixture
def record() -> Record:
    return records.read_all(GOLDEN, "mvtec")[0][0]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_category_is_read_back(record: Record, tmp_path: Path) -> None:
    record = replace(record, category="Gehäuse 部品", timing={"encode": 1, "score": 0.1 + 0.2})
    maps = {"file": np.eye(3), "test/good/000.png": np.full((2, 4), 1 / 3)}
    path = records.write(tmp_path, record, SCORES, maps)
    assert path == records.record_path(tmp_path, record.dataset, record.run_id, record.category)
    assert records.read(path) == record
    assert records.finished(tmp_path, record.dataset, record.run_id, record.category) == record

    with records.scores_path(tmp_path, record.dataset, record.run_id, record.category).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "defect", "label", "image_score"]
    assert [float(row["image_score"]) for row in rows] == [0.25, 1 / 3]
    assert rows[1]["path"] == 'test/a,"b"\n\\udcff.png'

    with np.load(records.maps_path(tmp_path, record.run_id, record.category), allow_pickle=False) as stored:
        assert set(stored) == set(maps)
        for key, values in maps.items():
            assert stored[key].dtype == np.float32
            np.testing.assert_array_equal(stored[key], values.astype(np.float32))


@pytest.mark.parametrize("name", ["a\rb", "\r", "a\nb", "a,b", 'a"b'])
def test_any_name_is_one_cell_of_one_row(record: Record, tmp_path: Path, name: str) -> None:
    rows = [records.Score(f"test/{name}/0.png", name, 1, 0.5), records.Score("test/good/0.png", "good", 0, 0.25)]
    records.write(tmp_path, record, rows)
    with records.scores_path(tmp_path, record.dataset, record.run_id, record.category).open(newline="") as file:
        assert [row["defect"] for row in csv.DictReader(file)] == [name, "good"]


def test_equal_content_gives_equal_bytes(record: Record, tmp_path: Path) -> None:
    maps = {"a.png": np.eye(3, dtype=np.float32)}
    backwards = replace(
        record, metrics=dict(reversed(record.metrics.items())), config=dict(reversed(record.config.items()))
    )
    records.write(tmp_path / "1", record, SCORES, maps)
    records.write(tmp_path / "2", backwards, SCORES, maps)
    assert len(files(tmp_path / "1")) == 4
    for name in files(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_record_comes_last(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = records.write_atomically

    def spy(path: Path, content: Any) -> None:
        original(path, content)
        written.append(path.name)

    monkeypatch.setattr(records, "write_atomically", spy)
    records.write(tmp_path, record, SCORES, {"a.png": np.eye(2)})
    assert written == ["bottle.npz", "bottle.scores.csv", "bottle.curves.csv", "bottle.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.json"
    records.write_atomically(path, b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise error

    with pytest.raises(InputError if isinstance(error, OSError) else type(error)) as caught:
        records.write_atomically(path, fail)
    if isinstance(error, OSError):
        assert "x.json (No space left on device)" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == {"x.json"}


def test_a_folder_that_disappears_is_made_again(tmp_path: Path) -> None:
    """As one of the feature store does when another process evicts it while a file is written into it."""
    path = tmp_path / "folder" / "file"
    tries = []

    def write(file: BinaryIO) -> None:
        file.write(b"content")
        tries.append(file)
        if len(tries) < 3:
            shutil.rmtree(path.parent)

    records.write_atomically(path, write)
    assert [path.name for path in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"content"

    def never(_: BinaryIO) -> None:
        shutil.rmtree(path.parent)

    with pytest.raises(InputError, match="No such file or directory"):
        records.write_atomically(path, never)


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        records.write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_results_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    records.check_writable(tmp_path / "new" / "results")
    assert files(tmp_path) == set()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file.*another folder"):
        records.check_writable(tmp_path / "file")


def test_what_is_not_finite_is_refused_and_nothing_is_recorded(record: Record, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="auroc_px is nan"):
        records.write(tmp_path, replace(record, metrics={**record.metrics, "auroc_px": float("nan")}), SCORES)
    with pytest.raises(InputError, match="bottle cannot be written"):
        records.write(tmp_path, replace(record, timing={"encode": float("inf")}), SCORES)
    with pytest.raises(InputError, match=r"a\.png is nan"):
        records.write(tmp_path, record, [Score("a.png", "good", 0, float("nan"))])
    with pytest.raises(InputError, match=r"map of a\.png is not finite"):
        records.write(tmp_path, record, SCORES, {"a.png": np.array([[np.inf]])})
    assert files(tmp_path) == set()


def test_records_refuse_what_they_could_not_be_read_back_with(record: Record) -> None:
    for broken in (
        replace(record, metrics={"auroc_px": 89.3}),
        replace(record, metrics={"auroc_px": None}, undefined={}),
        replace(record, run_id="../../../etc"),
        replace(record, config={}),
    ):
        with pytest.raises(InputError, match="bottle cannot be written"):
            records.to_json(broken)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "../x", "a\0b", "x" * 201, "é" * 101, "\ud800"])
def test_names_that_cannot_be_files_are_refused(name: str, tmp_path: Path) -> None:
    for dataset, category in ((name, "bottle"), ("mvtec", name)):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            records.record_path(tmp_path, dataset, "0" * 12, category)
    with pytest.raises(InputError, match="category"):
        records.maps_path(tmp_path, "0" * 12, name)


@given(st.text(st.characters(exclude_categories=())))
def test_any_name_stays_in_its_folder_or_is_refused(name: str) -> None:
    root = Path("/results")
    try:
        path = records.record_path(root, "mvtec", "0" * 12, name)
    except InputError:
        return
    assert Path(os.path.normpath(path)).parent == root / "records" / "mvtec" / ("0" * 12)
    assert path.name == f"{name}.json"


def test_names_that_are_not_unicode_survive(record: Record, tmp_path: Path) -> None:
    record = replace(record, category=os.fsdecode(b"caf\xe9"))
    assert records.read(records.write(tmp_path, record, SCORES)) == record


def damaged(content: dict[str, Any]) -> dict[str, bytes]:
    """Ways in which a record can be no record, by name."""
    text = json.dumps(content)
    variants: dict[str, Any] = {
        "other schema": {**content, "schema": 2},
        "no schema": {key: value for key, value in content.items() if key != "schema"},
        "lacks a key": {key: value for key, value in content.items() if key != "counts"},
        "unknown key": {**content, "extra": 1},
        "wrong type": {**content, "warnings": "none"},
        "metric in percent": {**content, "metrics": {**content["metrics"], "aupro": 70.1}},
        "metric true": {**content, "metrics": {**content["metrics"], "aupro": True}},
        "null without a reason": {**content, "metrics": {**content["metrics"], "aupro": None}},
        "reason without a null": {**content, "undefined": {"aupro": "?"}},
        "other category": {**content, "category": "cable"},
        "other dataset": {**content, "dataset": "visa"},
        "other run": {**content, "run_id": "0" * 12},
        "no seed": {**content, "config": {**content["config"], "seed": None}},
        "not an object": [content],
    }
    return {name: json.dumps(value).encode() for name, value in variants.items()} | {
        "empty": b"",
        "truncated": text[: len(text) // 2].encode(),
        "nan": text.replace("0.7012345678901234", "NaN").encode(),
        "not text": b"\xff\xfe\x00",
        "nested without end": b"[" * 100_000,
    }


def test_damaged_records_are_not_finished_and_do_not_hide_the_others(
    record: Record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = records.write(tmp_path, record, SCORES)
    other = replace(record, category="zipper")
    records.write(tmp_path, other, SCORES)
    for name, data in damaged(json.loads(path.read_text())).items():
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"bottle\.json is not a usable record"):
            pytest.fail(f"{name}: {records.read(path)}")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert records.finished(tmp_path, record.dataset, record.run_id, record.category) is None
        assert len(caplog.records) == 1
        found, broken = records.read_all(tmp_path)
        assert found == [other]
        assert len(broken) == 1
        assert "\n" not in broken[0]


def test_unfinished_is_quietly_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert records.finished(tmp_path, "mvtec", "0" * 12, "bottle") is None
    assert not caplog.records


def test_read_all_selects_and_sorts(record: Record, tmp_path: Path) -> None:
    places = [("visa", "1" * 12, "pcb1"), ("mvtec", "2" * 12, "b"), ("mvtec", "2" * 12, "a"), ("mvtec", "1" * 12, "c")]
    for dataset, run_id, category in places:
        records.write(tmp_path, replace(record, dataset=dataset, run_id=run_id, category=category), [])

    def found(**only: Any) -> list[tuple[str, str, str]]:
        kept, broken = records.read_all(tmp_path, **only)
        assert not broken
        return [(r.dataset, r.run_id, r.category) for r in kept]

    assert found() == sorted(places)
    assert found(dataset="mvtec") == sorted(places)[:3]
    assert found(run_ids={"1" * 12}) == [sorted(places)[0], sorted(places)[3]]
    assert records.read_all(tmp_path / "nothing") == ([], [])


def test_run_id_is_the_hash_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":[2,0.1,null,true],"c":{"x":"\\u00e9"}}').hexdigest()[:12]
    assert records.run_id({"c": {"x": "é"}, "b": (2.0, 0.1, None, True), "a": 1}) == expected
    assert records.run_id({"c": {"x": "é"}, "b": (2.0, 0.1, None, True), "a": 2}) != expected
    assert records.run_id({"a": 0.1 + 0.2}) != records.run_id({"a": 0.3})
    for identity, error in (({"a": float("nan")}, ValueError), ({1: "a"}, TypeError), ({"a": Path("x")}, TypeError)):
        with pytest.raises(error):
            records.run_id(identity)  # type: ignore[arg-type]
