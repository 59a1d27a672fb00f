"""Data sets from elsewhere: paths, names, pipes, devices, and images that are larger than they look."""

import csv
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.builders import paint, paint_mask
from tests.helpers import Outcome, arguments, command, make_category, read_records
from tests.report.results import config, make_run
from tests.security.confined import confined
from tests.test_bad_input import one_sentence
from winclip_bench import cli, pictures, records
from winclip_bench.data import content_digests, open_dataset, read_ground_truth, read_image, read_mask
from winclip_bench.data.__main__ import main as data
from winclip_bench.data.digests import UNREADABLE
from winclip_bench.errors import InputError
from winclip_bench.features.__main__ import main as features
from winclip_bench.features.shards import Item, Shards
from winclip_bench.predict import _write
from winclip_bench.report.page.content import class_of

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


@pytest.fixture
def copy(parts: Path, tmp_path: Path) -> Path:
    return shutil.copytree(parts, tmp_path / "parts")


def run(*settings: object) -> Outcome:
    """A command with little memory and time."""
    return Outcome(**confined(lambda: asdict(command(*settings)), megabytes=1024, seconds=60))


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def shown(text: str) -> bool:
    """Whether a terminal only shows it."""
    return all(character.isprintable() or character == "\n" for character in text)


# What is no file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("bolt/test/good/000.png", pipe),
        ("bolt/train/good/000.png", device),
        ("bolt/ground_truth/crack/000_mask.png", pipe),
    ],
)
def test_a_pipe_or_a_device_among_the_images(
    copy: Path, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """Reading either never ends: it is refused unread, and the other category finishes."""
    (copy / name).unlink()
    make(copy / name)
    outcome = run(*arguments(copy, tmp_path / "results", "k_shot=3"))
    one_sentence(outcome, "bolt", copy / name, "it is a pipe or a device and no file")
    assert [category for _, category in read_records(tmp_path / "results")] == ["wood_panel"]


@pytest.mark.parametrize("make", [pipe, device])
def test_a_pipe_or_a_device_in_the_place_of_a_file_of_ours(
    tmp_path: Path, parts: Path, make: Callable[[Path], None]
) -> None:
    results, store, cache = tmp_path / "results", tmp_path / "store", tmp_path / "cache"
    run_id = make_run(results, ["bolt"], config("parts"))
    record = records.read_all(results)[0][0]
    Shards(store).write([Item("a", 1, {})], np.zeros((1, 4), np.float32))
    for path in [*results.rglob("*.json"), *results.rglob("*.csv"), *store.iterdir()]:
        path.unlink()
        make(path)
    cache.mkdir()
    make(cache / "file-digests.json")
    lists = {"manifest": "manifest.csv", "meta_json": "meta.json", "visa": "split_csv/1cls.csv"}
    for layout, name in lists.items():
        (tmp_path / layout / name).parent.mkdir(parents=True)
        make(tmp_path / layout / name)

    def read() -> list[str]:
        said = records.read_all(results)[1]
        with pytest.raises(InputError) as caught:
            pictures.read(results, run_id, "bolt")
        said.append(str(caught.value))
        said.append(str(class_of(results, record).histogram))
        said += Shards(store).verify()
        said.append(str(Shards(store).find(["a"])))
        said.append(str(UNREADABLE in content_digests(open_dataset("folder", parts, "parts"), cache).files.values()))
        for layout in lists:
            with pytest.raises(InputError, match="it is a pipe or a device and no file") as caught:
                open_dataset(layout, tmp_path / layout, "parts")
            said.append(str(caught.value))
        return said

    record_said, pictures_said, histogram, shard_said, found, unreadable, *_ = confined(read)
    assert "it is a pipe or a device and no file" in record_said
    assert "is not usable" in pictures_said
    assert "it is a pipe or a device and no file" in shard_said
    assert (histogram, found, unreadable) == ("None", "{}", "False")


def test_a_link_shows_nothing_of_what_it_leads_to(copy: Path, tmp_path: Path) -> None:
    """Links are followed, data sets are often made of them; but what is no image is not quoted."""
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2")
    (copy / "bolt/test/good/000.png").unlink()
    (copy / "bolt/test/good/000.png").symlink_to(secret)
    outcome = command(*arguments(copy, tmp_path / "results", "dataset.categories=[bolt]"))
    one_sentence(outcome, copy / "bolt/test/good/000.png")
    assert "hunter2" not in outcome.out + outcome.err
    assert not any(b"hunter2" in path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file())


# Images that are larger than they look


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data or zlib.compress(bytes(70))), chunk(b"IEND", b"")]
    )


def tiff(width: int, height: int, *entries: tuple[int, int, int, int], data: bytes = bytes(64)) -> bytes:
    """Grey, uncompressed unless an entry says otherwise: (tag, type, count, value)."""
    given = {256: (3 if width < 2**16 else 4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1)}
    given |= {262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, len(data))}
    given |= {tag: tuple(rest) for tag, *rest in entries}  # type: ignore[misc]
    directory = b"".join(struct.pack("<HHII", tag, *given[tag]) for tag in sorted(given))
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(given)) + directory + bytes(4)


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + 64, 0, 0, 54) + header + bytes(64)


def jpeg(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "JPEG")
    whole = content.getvalue()
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


SIDE = 31_700  # squared, a thousand million
ZEROS = zlib.compress(bytes(64 * 2**20), 9)
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 10^9 pixels": (lambda: png(SIDE, SIDE), "dataset.max_pixels allows"),
    "PNG of one line": (lambda: png(2**31 - 1, 1), "dataset.max_pixels allows"),
    "PNG of 4 times 10^18 pixels": (lambda: png(2**31 - 1, 2**31 - 1), "dataset.max_pixels allows"),
    "TIFF of 10^9 pixels": (lambda: tiff(SIDE, SIDE), "dataset.max_pixels allows"),
    "BMP of 10^9 pixels": (lambda: bmp(SIDE, SIDE), "dataset.max_pixels allows"),
    "JPEG of 10^9 pixels": (lambda: jpeg(SIDE, SIDE), "dataset.max_pixels allows"),
    "PNG that unpacks to more than its pixels": (lambda: png(9, 7, data=ZEROS), ""),
    "PNG with a text that unpacks": (lambda: png(9, 7, chunk(b"zTXt", b"a\0\0" + ZEROS)), "too large"),
    "PNG with a profile that unpacks": (lambda: png(9, 7, chunk(b"iCCP", b"a\0\0" + ZEROS)), ""),
    "PNG with a chunk that is not there": (  # Pillow asks for as much as it says, and uses what there is
        lambda: png(9, 7).replace(chunk(b"IDAT", zlib.compress(bytes(70))), struct.pack(">I4s", 2**31 - 1, b"IDAT")),
        "",
    ),
    "PNG of a wrong check sum": (lambda: png(9, 7).replace(b"IHDR\0\0\0\x09", b"IHDR\0\0\0\x08"), "cannot be read"),
    "TIFF whose data lies elsewhere": (lambda: tiff(8, 8, (273, 4, 1, 2**31)), "cannot be read"),
    "TIFF of more strips than bytes": (lambda: tiff(8, 8, (279, 4, 2**28, 8), (273, 4, 2**28, 8)), "cannot be read"),
    "TIFF of many channels": (lambda: tiff(8, 8, (277, 3, 1, 65535)), "cannot be read"),
    "TIFF in a circle": (lambda: tiff(8, 8)[:-4] + struct.pack("<I", 72), ""),
    "TIFF of deflated zeros": (lambda: tiff(8, 8, (259, 3, 1, 8), data=ZEROS), ""),
}


@pytest.mark.parametrize(("make", "words"), BOMBS.values(), ids=BOMBS)
@pytest.mark.filterwarnings("ignore")
def test_an_image_takes_no_more_than_its_pixels(tmp_path: Path, make: Callable[[], bytes], words: str) -> None:
    """It is read where it says what it holds, or refused in a sentence, by images and masks alike."""
    path = tmp_path / "000.png"
    path.write_bytes(make())

    def read() -> list[str]:
        said = []
        for reading in (
            lambda: read_image(path).size,
            lambda: read_mask(path, (9, 7), resize=True).shape,
            lambda: read_ground_truth([path, path], (9, 7), resize=True).shape,
        ):
            try:
                said.append(f"read {reading()}")
            except InputError as error:
                said.append(str(error))
        return said

    image, mask, union = confined(read, megabytes=200)
    assert image.startswith((f"{path}: cannot be read as an image (", "read ("))
    assert mask == union or not words
    if words:
        assert words in image
        assert words in mask
        assert "MemoryError" not in image


def test_a_run_over_a_bomb(copy: Path, tmp_path: Path) -> None:
    """One sentence, and the other category finishes."""
    (copy / "bolt/test/good/000.png").write_bytes(png(SIDE, SIDE))
    outcome = run(*arguments(copy, tmp_path / "results"))
    one_sentence(outcome, "bolt", copy / "bolt/test/good/000.png", "dataset.max_pixels")
    assert [category for _, category in read_records(tmp_path / "results")] == ["wood_panel"]


# Names and paths


CLIMBING = ["../outside", "/outside", "a/../../outside", "..", "nul\0byte", "\ud800", ESCAPES, "con/../../x"]


def as_meta_json(root: Path, category: str, image: str, defect: str, mask: str) -> None:
    good = {"img_path": "000.png", "mask_path": "", "cls_name": category, "specie_name": "", "anomaly": 0}
    bad = {**good, "img_path": image, "mask_path": mask, "specie_name": defect, "anomaly": 1}
    (root / "meta.json").write_text(json.dumps({"train": {category: [good]}, "test": {category: [bad]}}))


def as_manifest(root: Path, category: str, image: str, defect: str, mask: str) -> None:
    rows = [("000.png", "train", "normal", "", category, ""), (image, "test", "anomalous", mask, category, defect)]
    with (root / "manifest.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label", "mask", "category", "defect"), *rows])


LAYOUTS = {"meta_json": as_meta_json, "manifest": as_manifest}
NO_TEXT = ("manifest", "\ud800")  # no CSV in UTF-8 can hold it


@pytest.mark.parametrize("field", ["category", "image", "defect", "mask"])
@pytest.mark.parametrize(("layout", "name"), [pair for pair in product(LAYOUTS, CLIMBING) if pair != NO_TEXT])
def test_no_name_leads_out(tmp_path: Path, layout: str, field: str, name: str) -> None:
    """Indexing refuses it, or the run does, or it is a name like another; nothing is written anywhere else."""
    root = tmp_path / "root"
    paint(root / "000.png", 1, (64, 64))
    paint(root / "001.png", 2, (64, 64))
    paint_mask(root / "mask.png", size=(64, 64))
    (tmp_path / "outside").write_bytes((root / "001.png").read_bytes())
    LAYOUTS[layout](
        root, **{"category": "bolt", "image": "001.png", "defect": "crack", "mask": "mask.png", field: name}
    )
    before = everything(tmp_path)
    index: Any = None
    try:
        index = open_dataset(layout, root, "parts")
    except InputError as error:
        assert field != "defect", "a defect is no path"
        assert str(root) in str(error)
    if index is not None:
        for sample in (sample for category in index.categories for sample in (*category.train, *category.test)):
            for path in (sample.image, *sample.masks):
                assert Path(os.path.normpath(path)).is_relative_to(root)
                assert ".." not in path.parts
        for category in index.categories:
            if field != "category":
                continue
            try:
                place = records.record_path(tmp_path / "results", "parts", "0" * 12, category.name)
            except InputError:
                continue
            assert place.parent == tmp_path / "results/records/parts" / ("0" * 12)
    assert everything(tmp_path) == before


def test_a_run_over_names_that_climb(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for number in range(2):
        paint(root / f"{number}.png", number, (64, 64))
    paint_mask(root / "mask.png", size=(64, 64))
    as_meta_json(root, "../../up", "1.png", "<b>=1+1" + ESCAPES, "mask.png")
    before = everything(tmp_path)
    outcome = command(*arguments(root, tmp_path / "results"), "dataset=meta_json")
    one_sentence(outcome, "../../up", "cannot be the name of a file")
    assert outcome.code == 1
    new = everything(tmp_path) - before
    assert all(path.is_relative_to(tmp_path / "results") or path.is_relative_to(tmp_path / "cache") for path in new)
    assert shown(outcome.out + outcome.err)


def test_a_run_over_names_that_write_to_the_terminal(tmp_path: Path) -> None:
    """In a category, a defect, a file, a mask without an image, and a class name."""
    root = tmp_path / "parts"
    folder = make_category(root / f"bolt{ESCAPES}", 1)
    (folder / "test/crack").rename(folder / f"test/crack{ESCAPES}")
    (folder / "ground_truth/crack").rename(folder / f"ground_truth/crack{ESCAPES}")
    paint(folder / f"test/good/{ESCAPES}.png", 9, (64, 64))
    paint_mask(folder / f"ground_truth/dent/{ESCAPES}_mask.png", size=(64, 64))
    make_category(root / "nut", 2)
    (root / f"nut/test/good/{ESCAPES}.png").write_text("no image")
    said = []
    for settings in (["k_shot=1"], ["method=defect_types", "stage=single"], [f"dataset.categories=[{'x'}]"]):
        outcome = command(*arguments(root, tmp_path / "results", *settings))
        said += [outcome.out, outcome.err]
    assert any("nut" in text and "cannot be read as an image" in text for text in said)
    assert "\\x1b" in "".join(said)
    assert all(map(shown, said)), said
    for path in (tmp_path / "results/tables").iterdir():
        assert shown(path.read_text(encoding="utf-8"))


def test_other_commands_do_not_obey_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "parts"
    make_category(root / f"bolt{ESCAPES}", 1)
    (root / f"bolt{ESCAPES}/test/dent/000.png").write_text("no image")
    data(["check", "dataset=folder", f"dataset.root={root}", f"runtime.cache_dir={tmp_path / 'cache'}"])
    model = tmp_path / "cache/features" / ("0" * 16)
    store = Shards(model / f"image{ESCAPES}")
    store.write([Item("a", 1, {})], np.zeros((1, 4), np.float32))
    about = {"architecture": ESCAPES, "weights": ESCAPES, "precision": ESCAPES}
    (model / "model.json").write_text(json.dumps(about))
    (store.folder / f"{ESCAPES}.json").write_text("{}")
    os.utime(paint(store.folder / f".{ESCAPES}.png").rename(store.folder / f".{ESCAPES}.tmp"), (0, 0))
    for words in (["list"], ["verify"], ["evict", "--dry-run"], ["evict", ESCAPES]):
        features([*words, "--cache-dir", str(tmp_path / "cache")])
    printed = capsys.readouterr()
    assert printed.out.count("\\x1b") > 5
    assert shown(printed.out + printed.err)


def test_a_warning_of_the_log_is_one_line() -> None:
    stream = io.StringIO()
    record = cli.logging.LogRecord("a", cli.logging.WARNING, "a.py", 1, "%s is\ngone", (f"/parts/{ESCAPES}",), None)
    cli.log_handler(stream).emit(record)
    assert stream.getvalue().startswith("warning: /parts/\\x1b]0;owned")
    assert stream.getvalue().count("\n") == 1
    assert shown(stream.getvalue())


def test_a_head_cannot_write_to_the_terminal(tmp_path: Path, parts: Path) -> None:
    """What a head says of itself is shown: its class name, and the note of its threshold."""
    results = tmp_path / "results"
    settings = arguments(parts, results, "dataset.categories=[bolt]", "method=linear_head", "k_shot=3", "pictures=0")
    settings = [word for word in settings if not word.startswith(("backbone.pretrained=", "scales="))]
    assert command(*settings).code == 0
    (path,) = results.glob("records/*/*/*.head.safetensors")
    path.write_bytes(_with_class_name(path.read_bytes(), f"bolt{ESCAPES}"))
    outcome = command("predict", parts / "bolt/test/good/000.png", "--head", path, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "bolt\\x1b" in outcome.out
    assert shown(outcome.out + outcome.err)


def _with_class_name(content: bytes, name: str) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["config"])
    header["__metadata__"]["config"] = json.dumps({**about, "class_name": name})
    changed = json.dumps(header).encode()
    return struct.pack("<Q", len(changed)) + changed + content[8 + size :]


def test_predictions_hold_no_formula(tmp_path: Path) -> None:
    paths = ["=1+1.png", "+1.png", "-1.png", "@a.png", "parts/=1.png", "/parts/a,\n.png"]
    _write(tmp_path, [{"path": path, "score": 0.5, "decision": None} for path in paths], {})
    with (tmp_path / "predictions.csv").open(newline="") as file:
        found = [row["path"] for row in csv.DictReader(file)]
    assert not [path for path in found if path.startswith(("=", "+", "-", "@"))]
    assert list(map(os.path.normpath, found)) == paths
    assert [row["path"] for row in json.loads((tmp_path / "predictions.json").read_text())["images"]] == paths
