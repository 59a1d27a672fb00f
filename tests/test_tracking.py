"""The mirror on W&B, with its real client, without a network: what it writes, and that no failure gets out."""

import json
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.results import config, make_run
from winclip_bench import tracking
from winclip_bench.records import Record, read_all
from winclip_bench.report.tables import COLUMNS, METRICS, Table, table

pytest.importorskip("wandb")

GOLDEN = Path(__file__).parent / "report" / "golden"
KEY = "0" * 40
KEYS = ("run_id", "project", "display_name", "job_type", "run_group")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Record], Table, Path]:
    """Records, table and an empty results folder; nobody's account within reach."""
    for name in os.environ:
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # its service is no Python: it gets nothing to reach
    monkeypatch.setattr(tracking, "_online_failed", False)
    found, _ = read_all(GOLDEN, "mvtec")
    return found, table(found), tmp_path / "results"


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as server:  # bound, but not listening: connections are refused
        server.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def read_back(folder: Path) -> dict[str, Any]:
    """Config, summary and identity of an offline run, from its transaction log.

    The log is LevelDB's: after a header of 7 bytes, blocks of 32 KiB with pieces of records, each piece with its
    checksum (4 bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
    """
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415

    data = next(folder.glob("*.wandb")).read_bytes()
    assert data[:4] == b":W&B"
    at, pending = 7, b""
    content: dict[str, Any] = {"config": {}, "summary": {}, "exits": [], "artefacts": []}
    while at < len(data):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind not in {1, 4}:
            continue
        record = wandb_internal_pb2.Record.FromString(pending)
        pending = b""
        if record.HasField("run"):
            content |= {key: getattr(record.run, key) for key in KEYS}
            content["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("summary"):
            for item in record.summary.update:
                content["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField("artifact"):
            content["artefacts"].append(record.artifact)
        if record.request.HasField("log_artifact"):
            content["artefacts"].append(record.request.log_artifact.artifact)
        if record.HasField("exit"):
            content["exits"].append(record.exit.exit_code)
    return content


def test_offline_mirror_holds_config_table_and_means(
    run: tuple[list[Record], Table, Path], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    records, content, results = run
    folder = Path(tracking.track(records, content, results) or "")
    assert folder.parent == results / "wandb"
    assert not caplog.records
    assert capfd.readouterr() == ("", "")

    written = read_back(folder)
    assert written["run_id"] == content.run_id
    assert written["project"] == "winclip-bench"
    assert written["display_name"] == content.slug
    assert written["job_type"] == "mvtec"
    assert written["exits"] == [0]
    for key, value in records[0].config.items():
        assert written["config"][key] == value

    means = {metric: value for metric, value in zip(METRICS, content.mean.values, strict=True) if value is not None}
    assert {key: written["summary"][key] for key in means} == means
    assert written["summary"]["classes"] == 2
    tables = list(folder.glob("files/media/table/*.json"))
    assert len(tables) == 1
    classes = json.loads(tables[0].read_text())
    assert classes["columns"] == list(COLUMNS)
    assert classes["data"] == [[row.label, *row.values] for row in content.rows]
    assert [row[0] for row in classes["data"]] == ["bottle", "cable", "metal_nut"]


@pytest.mark.parametrize("source", ["environment", "netrc"])
def test_a_server_that_is_not_there_costs_one_warning_and_is_not_asked_again(
    run: tuple[list[Record], Table, Path],
    source: str,
    closed_port: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if source == "environment":
        monkeypatch.setenv("WANDB_API_KEY", KEY)
    else:
        netrc = Path(os.environ["NETRC"])
        netrc.parent.mkdir()
        host = closed_port.removeprefix("http://")
        netrc.write_text(f"machine {host}\nlogin user\npassword {KEY}\n")
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 1.0)
    records, content, results = run
    first = tracking.track(records, content, results)
    assert read_back(Path(first or ""))["run_id"] == content.run_id
    modes: list[str] = []
    monkeypatch.setattr(tracking, "_in_child", lambda payload: modes.append(payload["mode"]) or "")
    tracking.track(records, content, results)
    assert modes == ["offline"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "offline" in caplog.text
    assert "refused" in caplog.text


def test_a_client_that_hangs_is_ended(
    run: tuple[list[Record], Table, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "SECONDS", 0.01)
    assert tracking.track(*run, mode="online") is None
    assert len(caplog.records) == 1
    assert "no answer within 0.01 s" in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "No space left\non device"), RuntimeError("\x1b[31m"), MemoryError()])
def test_whatever_is_raised_becomes_one_warning(
    run: tuple[list[Record], Table, Path],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(tracking.subprocess, "Popen", fail)
    assert tracking.track(*run) is None
    assert len(caplog.records) == 1
    assert "\n" not in caplog.messages[0]
    assert "\x1b" not in caplog.messages[0]


@pytest.mark.parametrize("as_folder", [False, True])
def test_without_wandb_one_warning_says_how_to_get_it(
    run: tuple[list[Record], Table, Path],
    as_folder: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "wandb").mkdir()  # a folder of W&B's files looks like a package without code
    for name in [name for name in tracking.sys.modules if name.split(".")[0] == "wandb"]:
        monkeypatch.delitem(tracking.sys.modules, name)
    monkeypatch.setattr(tracking.sys, "path", [str(tmp_path)] if as_folder else [])
    assert tracking.track(*run) is None
    assert len(caplog.records) == 1
    assert 'pip install "winclip-bench[wandb]"' in caplog.text


def test_nothing_is_started_where_no_mirror_is_wanted(
    run: tuple[list[Record], Table, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "_in_child", lambda payload: pytest.fail("started"))
    assert tracking.track(*run, mode="disabled") is None
    assert tracking.track([], run[1], run[2]) is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracking.track(*run) is None
    assert not caplog.records


def test_group_overlays_and_the_records_by_hash(
    run: tuple[list[Record], Table, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "own"
    names = ["bolt", "nut", "screw"]
    make_run(results, names, config("parts", k=1), images=40, shown=30)
    found, _ = read_all(results)
    folder = Path(tracking.track(found, table(found), results, group="k_shot=0,1 dataset=parts") or "")
    assert not caplog.records
    written = read_back(folder)
    assert written["run_group"] == "k_shot=0,1 dataset=parts"
    assert written["summary"]["worst.count"] == tracking.IMAGES
    captions = written["summary"]["worst.captions"]
    for name in names:
        assert sum(caption.startswith(f"{name} / test/") for caption in captions) == tracking.IMAGES // len(names)
    overlays = list(folder.glob("files/media/images/*.jpg"))
    assert len(overlays) == tracking.IMAGES
    assert sum(path.stat().st_size for path in overlays) < 2**20

    (artefact,) = {one.name: one for one in written["artefacts"] if one.type == "records"}.values()  # W&B's own apart
    assert (artefact.name, artefact.type) == (f"records-{found[0].run_id}", "records")
    assert {entry.path for entry in artefact.manifest.contents} == {
        f"{name}.{ending}" for name in names for ending in ("json", "scores.csv")
    }
    links = json.loads(artefact.metadata)
    assert links["weights_sha256"] == found[0].provenance["weights_sha256"]
    assert links["dataset_digest"] == found[0].provenance["dataset_digest"]
    assert links["reference/bolt/train/good/0.png"] == f"{0:064x}"


def test_a_run_that_is_mirrored_again_leaves_one_copy_to_sync(run: tuple[list[Record], Table, Path]) -> None:
    records, content, results = run
    older = results / "wandb" / f"offline-run-20200101_000000-{content.run_id}"
    other = results / "wandb" / "offline-run-20200101_000000-0123456789ab"
    for folder in (older, other):
        folder.mkdir(parents=True)
    newer = Path(tracking.track(records, content, results) or "")
    assert set((results / "wandb").glob("offline-run-*")) == {newer, other}
    assert read_back(newer)["run_id"] == content.run_id
