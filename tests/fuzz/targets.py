"""What reads files from elsewhere, as functions of a file's bytes: does its reader take them?

A reader gives something valid or raises exactly the error that it documents, in bounded time and memory, and writes
nothing. Whatever else happens gets out of `Target.check`. `python scripts/fuzz.py` and the tests beside run them.
"""

import csv
import io
import json
import math
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from winclip_bench import pictures, records
from winclip_bench.clip.defect_prompts import DefectPrompts
from winclip_bench.data import (
    Category,
    Dataset,
    Sample,
    check_category,
    content_digests,
    file_sha256,
    open_dataset,
    read_ground_truth,
    read_image,
    read_mask,
    read_reference_file,
    read_reference_sets,
)
from winclip_bench.data.archives import extract
from winclip_bench.data.digests import _check, _read_cache
from winclip_bench.data.images import header_size
from winclip_bench.errors import InputError
from winclip_bench.estimator import WinCLIP
from winclip_bench.features.shards import Item, Shards, _digest
from winclip_bench.jobs import read_jobs, read_sweeps
from winclip_bench.methods import linear_head
from winclip_bench.metrics import classification, label_metrics
from winclip_bench.pipelines.defect_types import curated_set
from winclip_bench.report.page import write_page
from winclip_bench.report.page.content import class_of, read_claims, series_of
from winclip_bench.report.tables import overview, table, to_csv, to_latex, to_markdown
from winclip_bench.report.typing import stages, write_typing
from winclip_bench.status import Line, as_json, lines_of, section

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "report" / "golden"
DEFECT_PROMPTS = ROOT / "conf" / "prompts" / "defects" / "hazelnut_clip_cpe.yaml"
MAX_PIXELS = 4096
SHA256 = "0" * 64
_MEMORY = Path("/dev/shm")  # files that live for a millisecond need no disk
_FAST = str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None


@dataclass(frozen=True)
class Target:
    """A reader: `seeds` makes valid files; `check` is whether it takes one, and raises where it breaks its promise."""

    name: str
    seeds: Callable[[], list[bytes]]
    check: Callable[[bytes], bool]


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder, for a moment."""
    with tempfile.TemporaryDirectory(prefix="winclip-bench-fuzz-", dir=_FAST) as folder:
        yield Path(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def unwritten(folder: Path) -> Iterator[None]:
    """Nothing below the folder changes meanwhile."""
    before = files(folder)
    yield
    assert files(folder) == before, "a reader wrote"


def file(folder: Path, name: str, content: bytes) -> Path:
    """A file of these bytes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# The feature store


def _write_shard(folder: Path) -> tuple[Path, Path]:
    """A shard of two items as the store writes it: its manifest and its array, below this folder."""
    folder = folder / ("0" * 16) / "image"  # which a manifest names
    items = [Item("a", 1, {"corners": [[0, 0]], "size": [8, 8], "original_size": [8, 8]}), Item("b", 2, {})]
    Shards(folder).write(items, np.arange(6, dtype=np.float32).reshape(3, 2))
    return next(folder.glob("*.json")), next(folder.glob("*.npy"))


def _use_shards(folder: Path) -> bool:
    """Everything that is done with a folder of shards; whether anything is in it."""
    with unwritten(folder):
        keys = Shards(folder).keys()
        faults = Shards(folder).verify()
    shards = Shards(folder)
    found = shards.find([*keys, "absent"])
    for key, about in found.items():
        assert isinstance(about, dict)
        assert shards.rows(key).tobytes() is not None
    assert not (faults and found), "a damaged shard was given out"
    return bool(found)


def _check_manifest(content: bytes) -> bool:
    found = False
    for signed in (True, False):
        with scratch() as folder:
            manifest, array = _write_shard(folder)
            manifest.write_bytes(_with_digest(content, array) if signed else content)
            found = _use_shards(manifest.parent)
    return found


def _with_digest(manifest: bytes, array: Path) -> bytes:
    """A manifest with the digest that goes with what it says, as far as it can be had."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(manifest)
        return json.dumps(content | {"digest": _digest(content["items"], np.load(array))}).encode()
    return manifest


def _check_array(content: bytes) -> bool:
    with scratch() as folder:
        manifest, path = _write_shard(folder)
        path.write_bytes(content)
        found = _use_shards(manifest.parent)
    with scratch() as folder:  # and with a manifest that fits
        manifest, path = _write_shard(folder)
        path.write_bytes(content)
        with suppress(Exception):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            listed: list[Any] = [{"key": "a", "rows": array.shape[0], "about": {}}]
            fitting = {"format": 1, "items": listed, "dtype": array.dtype.str, "shape": list(array.shape)}
            manifest.write_text(json.dumps({**fitting, "digest": "0"}))
            manifest.write_text(json.dumps({**fitting, "digest": _digest(listed, array)}))
        _use_shards(manifest.parent)
    return found


def _shard_seeds(which: int) -> list[bytes]:
    with scratch() as folder:
        return [_write_shard(folder)[which].read_bytes()]


# Records and what lies beside them


@cache
def _record_bytes() -> bytes:
    return records.to_json(records.read_all(GOLDEN, "mvtec")[0][0])


def _place_of(content: bytes) -> tuple[str, str, str]:
    """Where a record claims to belong, as far as that can be a place; else where the seed does."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, InputError, RecursionError):
        parsed = json.loads(content)
        place = (parsed["dataset"], parsed["run_id"], parsed["category"])
        records.record_path(Path(), *place)
        if all("\x00" not in name for name in place):
            return place
    return _place_of(_record_bytes())


def _check_record(content: bytes) -> bool:
    with scratch() as folder:
        path = records.record_path(folder, *_place_of(content))
        file(path.parent, path.name, content)
        with unwritten(folder):
            try:
                record = records.read(path)
            except InputError:
                return False
        again = records.record_path(folder / "again", *_place_of(content))
        file(again.parent, again.name, records.to_json(record))
        assert records.read(again) == record
        return True


def _check_report(content: bytes) -> bool:
    """Whatever is a record can be reported on."""
    with scratch() as folder:
        path = records.record_path(folder, *_place_of(content))
        file(path.parent, path.name, content)
        found, _ = records.read_all(folder)
        for record in found:
            run = table([record])
            for render in (to_markdown, to_csv, to_latex):
                assert render(run)
            if record.typing is not None:
                assert stages([record])
        write_typing(folder, found)
        assert overview(found)
        write_page(folder)
        return bool(found)


@cache
def _typed_record() -> bytes:
    """A record of a method that names defects."""
    found = classification.section(label_metrics(["good", "cut", "cut"], ["good", "crack", "cut"]))
    binary = classification.section(classification.binary_metrics([False, True, True], [0, 1, 1]))
    cut = {"rule": "conformal", "value": 0.5, "inclusive": False, "promised": 0.05, "interval": [0, 0.3], "note": "few"}
    typing = {"stage": "two", "type": found, "binary": binary, "threshold": cut}
    typing["oracle"] = {"oracle_f1": {"threshold": cut, "binary": binary}}
    return records.to_json(replace(records.read_all(GOLDEN, "mvtec")[0][0], typing=json.loads(json.dumps(typing))))


def _check_scores(content: bytes) -> bool:
    """The files beside a record."""
    with scratch() as folder:
        record = records.read_all(GOLDEN, "mvtec")[0][0]
        place = (record.dataset, record.run_id, record.category)
        for path in (records.scores_path(folder, *place), records.curves_path(folder, *place)):
            file(path.parent, path.name, content)
        with unwritten(folder):
            found = class_of(folder, record)
        assert all(math.isfinite(number) for points in (found.image_roc, found.pro) for at in points for number in at)
        return bool(found.image_roc)


def _check_pictures(content: bytes) -> bool:
    with scratch() as folder:
        record = records.read_all(GOLDEN, "mvtec")[0][0]
        path = pictures.index_path(folder, record.run_id, record.category)
        file(path.parent, path.name, content)
        taken = False
        with unwritten(folder), suppress(InputError):
            taken = pictures.read(folder, record.run_id, record.category) is not None
        path = records.record_path(folder, record.dataset, record.run_id, record.category)
        file(path.parent, path.name, _record_bytes())
        write_page(folder)
        return taken


def _pictures_seed() -> bytes:
    one = {"path": "test/crack/0.png", "sha256": SHA256, "defect": "crack", "label": 1, "image_score": 0.5, "error": 0}
    one |= {"low": 0.1, "high": 0.9, "width": 60, "height": 40, "size": [24, 24], "outline": "M3.5 2 1.5 2Z"}
    return json.dumps({"pictures": [one], "total": 3, "low": 0.0, "high": 1.0}).encode()


def _check_job(content: bytes) -> bool:
    with scratch() as folder:
        file(folder, f"jobs/{'0' * 12}.json", content)
        with unwritten(folder):
            found, broken = read_jobs(folder)
        assert len(found) + len(broken) == 1
        for standing in found.values():
            shown = "".join(section("a run", [Line("it", standing)], standing.command))
            assert shown.replace("\n", "").isprintable(), "a terminal would obey it"
        as_json({}, found).encode()
        return bool(found)


def _job_seed() -> bytes:
    process = {"host": "node7", "where": "node7 1 2", "pid": 1, "started": "1"}
    job = {"schema": 1, "command": None, "categories": ["bolt", "nut"], "reasons": {"nut": "no"}, "state": "failed"}
    return json.dumps(job | {"process": process, "attempt": "a", "dataset": "parts", "run_id": "0" * 12}).encode()


def _check_sweep(content: bytes) -> bool:
    with scratch() as folder:
        file(folder, f"sweeps/{'0' * 12}.json", content)
        with unwritten(folder):
            found, broken = read_sweeps(folder)
        assert len(found) + len(broken) == 1
        for sweep in found.values():
            shown = "".join(section("a sweep", lines_of(sweep, {}), sweep.command))
            assert shown.replace("\n", "").isprintable(), "a terminal would obey it"
            sweep.name.encode()
        as_json(found, {}).encode()
        return bool(found)


def _sweep_seed() -> bytes:
    jobs = [{"job": "1" * 12, "overrides": ["k_shot=0"]}, {"job": None, "overrides": ["k_shot=-1"], "refused": "no"}]
    return json.dumps({"schema": 1, "command": "python run.py -m k_shot=0,-1", "folder": "/", "jobs": jobs}).encode()


def _check_claims(content: bytes) -> bool:
    with scratch() as folder:
        file(folder, "claims/claims.json", content)
        with unwritten(folder), suppress(InputError):
            return bool(series_of(records.read_all(GOLDEN)[0], read_claims(folder)))
    return False


def _claims_seed() -> bytes:
    claim = {"claim": "a", "object": "mean", "metric": "aupro", "claimed": 51.8, "difference": -1.8}
    return json.dumps({"claims": [{**claim, "verdict": "below", "runs": ["0" * 12]}]}).encode()


# Data sets


def _check_image(content: bytes) -> bool:
    with scratch() as folder:
        path = file(folder, "image.png", content)
        with unwritten(folder):
            size = header_size(path)
            try:
                image = read_image(path, MAX_PIXELS)
            except InputError:
                return False
        assert image.mode == "RGB"
        assert size is not None
        assert sorted(image.size) == sorted(size)
        assert image.width * image.height <= MAX_PIXELS
        return True


def _check_mask(content: bytes) -> bool:
    with scratch() as folder:
        path = file(folder, "mask.png", content)
        size = header_size(path) or (8, 8)
        if size[0] * size[1] > MAX_PIXELS:
            size = (8, 8)
        taken = 0
        with unwritten(folder):
            for threshold, resize in ((None, False), (99, True)):
                with suppress(InputError):
                    mask = read_mask(path, size, MAX_PIXELS, threshold, resize)
                    assert (mask.shape, mask.dtype) == (size[::-1], bool)
                    union = read_ground_truth([path, path], size, MAX_PIXELS, threshold, resize)
                    assert (union == mask).all()
                    taken += 1
    return taken > 0  # a mask that is turned upright has its sides exchanged, and without resizing is refused


def _image_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [
        (Image.fromarray(rgb), "PNG", {"exif": exif}),
        (Image.fromarray(rgb).quantize(5), "PNG", {"transparency": 1}),
        (Image.fromarray(rgb[:, :, 0] > 99), "PNG", {}),
        (Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 250), "PNG", {}),
        (Image.fromarray(rgb), "JPEG", {"exif": exif, "progressive": True}),
        (Image.fromarray(rgb).convert("CMYK"), "JPEG", {}),
        (Image.fromarray(rgb), "BMP", {}),
        (Image.fromarray(rgb).quantize(5), "BMP", {}),
        (Image.fromarray(rgb), "TIFF", {}),
        (Image.fromarray(rgb), "TIFF", {"compression": "tiff_lzw"}),
        (Image.fromarray(rgb), "TIFF", {"compression": "jpeg"}),
        (Image.fromarray(rgb[:, :, 0].astype(np.float32) / 255), "TIFF", {"compression": "tiff_deflate"}),
        (Image.fromarray(rgb[:, :, 0].astype(np.int32)), "TIFF", {}),
        (Image.fromarray(rgb), "WEBP", {"lossless": True, "exif": exif}),
        (Image.fromarray(rgb), "WEBP", {}),
    ]
    seeds = []
    for image, kind, options in made:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        seeds.append(buffer.getvalue())
    return seeds


def _category(folder: Path) -> Category:
    def sample(key: str, split: Any) -> Sample:
        path = file(folder, f"bolt/{key}", b"image")
        return Sample(path, key, "bolt", split, "good")

    train = tuple(sample(f"train/good/00{number}.png", "train") for number in range(3))
    return Category("bolt", train, (sample("test/good/000.png", "test"),))


def _check_references(content: bytes) -> bool:
    with scratch() as folder:
        category = _category(folder)
        path = file(folder, "references.txt", content)
        with unwritten(folder), suppress(InputError):
            for image in read_reference_file(path, category):
                assert image.is_file()
                assert image.resolve() != category.test[0].image
            return True
    return False


def _check_sets(content: bytes) -> bool:
    with scratch() as folder:
        category = _category(folder)
        path = file(folder, "references.csv", content)
        with unwritten(folder), suppress(InputError):
            for samples in read_reference_sets(path, "parts", 2, [category]).values():
                assert len(set(samples)) == 2
                assert set(samples) <= set(category.train)
            return True
    return False


def _check_layout(layout: str, name: str) -> Callable[[bytes], bool]:
    """A list of a dataset's files; whatever it says, its paths are below the root."""

    def check(content: bytes) -> bool:
        with scratch() as folder:
            _category(folder)
            file(folder, name, content)
            with unwritten(folder):
                try:
                    dataset = open_dataset(layout, folder, "parts")
                except InputError:
                    return False
                for category in dataset.categories:
                    with suppress(InputError):
                        check_category(category)
                    for sample in (*category.train, *category.test):
                        for path in (sample.image, *sample.masks):
                            assert Path(os.path.normpath(path)).is_relative_to(folder)
                content_digests(dataset)
        return True

    return check


def _csv(*rows: tuple[object, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _manifest_csv() -> bytes:
    return _csv(
        ("path", "split", "label", "mask", "category", "defect"),
        ("bolt/train/good/000.png", "train", "normal", "", "bolt", ""),
        ("bolt/test/good/000.png", "test", "anomalous", "bolt/train/good/001.png", "bolt", "crack"),
    )


def _meta_json() -> bytes:
    entry = {"img_path": "bolt/test/good/000.png", "mask_path": "", "cls_name": "bolt", "specie_name": "", "anomaly": 0}
    anomalous = {**entry, "mask_path": ["bolt/m.png"], "specie_name": "crack", "anomaly": 1}
    return json.dumps({"train": {"bolt": [entry]}, "test": {"bolt": [entry, anomalous]}}).encode()


def _visa_csv() -> bytes:
    return _csv(
        ("object", "split", "label", "image", "mask"),
        ("bolt", "train", "normal", "bolt/train/good/000.png", ""),
        ("bolt", "test", "anomaly", "bolt/test/good/000.png", "bolt/train/good/001.png"),
    )


def _check_digests(content: bytes) -> bool:
    for signed in (False, True):
        with scratch() as folder:
            category = _category(folder)
            path = file(folder, "file-digests.json", content)
            if signed:
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    parsed = json.loads(content)
                    path.write_text(json.dumps(parsed | {"check": _check(parsed["files"])}))
            with unwritten(folder):
                known = _read_cache(path)
            for name, (stamp, sha256) in known.items():
                assert isinstance(name, str)
                assert [type(number) for number in stamp] == [int] * 4
                assert len(sha256) == 64
                assert set(sha256) <= set("0123456789abcdef")
            found = content_digests(Dataset("parts", folder, (category,)), folder)
            assert found.files == {path: file_sha256(path) for path in found.files}
    return bool(known)


def _digests_seed() -> bytes:
    listed = {"/parts/000.png": [5, 10**18, 10**18, 7, SHA256]}
    return json.dumps({"check": _check(listed), "files": listed}).encode()


def _check_archive(content: bytes) -> bool:
    with scratch() as folder:
        path = file(folder, "archive", content)
        taken = False
        with suppress(InputError):
            taken = extract(path, folder / "out", max_bytes=4096, max_members=8) > 0
        assert {name for name in files(folder) if not name.startswith("out/")} == {"archive"}
        assert sum(map(len, files(folder).values())) <= len(content) + 4096
        return taken


def _archive_seeds() -> list[bytes]:
    seeds = []
    for mode in ("w", "w:gz", "w:xz", "w:bz2"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            info = tarfile.TarInfo("bolt/é.png")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"image"))
        seeds.append(buffer.getvalue())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bolt/000.png", b"image" * 9)
    return [*seeds, buffer.getvalue()]


# Models and prompts


def _check_head(content: bytes) -> bool:
    with suppress(ValueError):  # as documented
        head, config = linear_head.from_bytes(content)
        assert (head.weight.ndim, head.bias.ndim) == (1, 0)
        assert isinstance(config, dict)
        return True
    return False


def _head_seed() -> bytes:
    import torch  # noqa: PLC0415  (the other targets need none)

    return linear_head.to_bytes(linear_head.Head(torch.zeros(4), torch.tensor(0.5)), {"class_name": "bolt"})


def _check_model(content: bytes) -> bool:
    with scratch() as folder:
        (folder / "model.safetensors").write_bytes(_saved_model()["model.safetensors"])
        (folder / "model.json").write_bytes(content)
        with unwritten(folder), suppress(InputError):
            WinCLIP.load(folder)
            return True
    return False


@cache
def _saved_model() -> dict[str, bytes]:
    import torch  # noqa: PLC0415  (as above)

    model = WinCLIP()
    model._prototypes, model.class_name_ = torch.zeros(2, 8), "bolt"
    with scratch() as folder:
        model.save(folder)
        return files(folder)


def _check_defect_prompts(content: bytes) -> bool:
    with scratch() as folder:
        path = file(folder, "prompts.yaml", content)
        with unwritten(folder), suppress(InputError):
            found = curated_set(str(path))
            assert isinstance(found, DefectPrompts)
            texts = [text for states in found.classes("bolt").values() for text in states]
            assert all(isinstance(text, str) for text in texts)
            return True
    return False


TARGETS = {
    target.name: target
    for target in (
        Target("shard_manifest", lambda: _shard_seeds(0), _check_manifest),
        Target("shard_array", lambda: _shard_seeds(1), _check_array),
        Target("record", lambda: [_record_bytes(), _typed_record()], _check_record),
        Target("report", lambda: [_record_bytes(), _typed_record()], _check_report),
        Target("scores", lambda: [b"path,defect,label,image_score\na,good,0,0.5\nb,x,1,0.7\n"], _check_scores),
        Target("pictures", lambda: [_pictures_seed()], _check_pictures),
        Target("job", lambda: [_job_seed()], _check_job),
        Target("sweep", lambda: [_sweep_seed()], _check_sweep),
        Target("claims", lambda: [_claims_seed()], _check_claims),
        Target("image", _image_seeds, _check_image),
        Target("mask", _image_seeds, _check_mask),
        Target("references", lambda: [b"# two\ntrain/good/000.png\nbolt/train/good/001.png\n"], _check_references),
        Target(
            "reference_sets",
            lambda: [b"dataset,category,k_shot,image_stems\nparts,bolt,2,000 001\nparts,bolt,1,002\n"],
            _check_sets,
        ),
        Target("manifest_csv", lambda: [_manifest_csv()], _check_layout("manifest", "manifest.csv")),
        Target("meta_json", lambda: [_meta_json()], _check_layout("meta_json", "meta.json")),
        Target("visa_csv", lambda: [_visa_csv()], _check_layout("visa", "split_csv/1cls.csv")),
        Target("digests", lambda: [_digests_seed()], _check_digests),
        Target("archive", _archive_seeds, _check_archive),
        Target("head", lambda: [_head_seed()], _check_head),
        Target("model", lambda: [_saved_model()["model.json"]], _check_model),
        Target("defect_prompts", lambda: [DEFECT_PROMPTS.read_bytes()], _check_defect_prompts),
    )
}
