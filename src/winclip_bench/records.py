"""Records: what a finished category leaves behind, and the only thing that tables, claims and pages are made from.

For every category of a run, in this order::

    <results_dir>/maps/<run_id>/<category>.npz                       only when asked: float32 anomaly map per image,
                                                                     key = path relative to the category
    <results_dir>/maps/<run_id>/<category>.types.npz                 likewise, where defects are named: uint8 index of
                                                                     a class per pixel, and ``classes``, their names
    <results_dir>/records/<dataset>/<run_id>/<category>.head.safetensors  of the method that trains one
    <results_dir>/records/<dataset>/<run_id>/<category>.scores.csv   path,defect,label,image_score
    <results_dir>/records/<dataset>/<run_id>/<category>.curves.csv   fpr,tpr,pro of a few thresholds, to be drawn
    <results_dir>/records/<dataset>/<run_id>/<category>.json         the record

Each file is written under a temporary name and renamed, the record last: a record that exists is finished. Equal
content gives equal bytes.
"""

import csv
import glob
import hashlib
import io
import json
import logging
import math
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from winclip_bench.errors import InputError, printable
from winclip_bench.reading import check_regular, parse_json, read_bytes, reason

SCHEMA = 1
_RUN_ID = re.compile(r"[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 200  # bytes; file systems stop at 255 and the endings need room
_TRIES = 5  # at a file whose folder disappears, as one of the feature store does that is evicted
_LARGEST_RECORD = 32 * 2**20  # bytes; real ones are a few kB
CLASSES = "classes"  # key of the names in a file of type maps; every other key is the path of an image
_OPTIONAL = {"typing", "summary"}  # keys of a record
_NUMBER = (int, float)  # JSON may write 1.0 as 1
_ROUNDING = 1e-9  # how far outside of 0–1 a metric may lie
_CONFIG: dict[tuple[str, ...], type] = {
    ("dataset", "name"): str,
    ("backbone", "name"): str,
    ("backbone", "pretrained"): str,
    ("method", "name"): str,
    ("prompts", "name"): str,
    ("protocol", "name"): str,
    ("runtime", "precision"): str,
    ("scales",): list,
    ("k_shot",): int,
    ("seed",): int,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One finished category of one run.

    config      the resolved configuration, nested; ``dataset``, ``backbone``, ``method``, ``prompts`` and ``protocol``
                have a ``name``, ``backbone.pretrained`` is ``untrained`` for weights that nobody trained, and
                ``runtime.precision``, ``scales``, ``k_shot`` and ``seed`` are there too; ``dataset.categories``,
                where not empty, names all categories of the run
    metrics     name -> value in 0–1, None where undefined
    undefined   name -> why, for exactly the metrics that are None
    warnings    sentences for whoever reads the numbers
    counts      what the numbers are over, e.g. images per label
    references  one ``{"path", "sha256"}`` per reference image, in the order they were used
    timing      seconds by stage; the only part that may differ between two runs of the same thing
    provenance  git state, versions, machine, ``weights_sha256``, ``dataset_digest``
    typing      of methods that name defects: see `report.typing`; left out of the file where there is none
    summary     of the embedding baselines: see `metrics.classification.summary`; left out likewise
    """

    run_id: str
    dataset: str
    category: str
    config: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    undefined: Mapping[str, str]
    warnings: list[str]
    counts: Mapping[str, Any]
    references: list[dict[str, str]]
    timing: Mapping[str, float]
    provenance: Mapping[str, Any]
    schema: int = SCHEMA
    typing: Mapping[str, Any] | None = None
    summary: Mapping[str, Any] | None = None


class Score(NamedTuple):
    """One row of a scores file: a test image, its defect type, its label (1 = anomalous), its image score, and from a
    method that decides, what it is taken for; the column is left out where nothing is decided."""

    path: str
    defect: str
    label: int
    image_score: float
    predicted: str | None = None


def run_id(identity: Mapping[str, Any]) -> str:
    """Name of a run: the first 12 hex digits of the sha256 over ``identity`` as canonical JSON.

    Neither the order of keys nor writing 1 as 1.0 changes it. Raises TypeError on anything that JSON has no exact
    form for, ValueError on numbers that are not finite.

    >>> run_id({"k_shot": 4, "temperature": 1}) == run_id({"temperature": 1.0, "k_shot": 4})
    True
    """
    text = json.dumps(_canonical(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys of a run's identity are strings, not {sorted(map(str, value))}")
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def record_path(results_dir: Path, dataset: str, run_id: str, category: str) -> Path:
    """Where the record of a category lies. Raises InputError where a name cannot be the name of a file."""
    folder = Path(results_dir) / "records" / safe_name(dataset, "dataset") / safe_name(run_id, "run_id")
    return folder / f"{safe_name(category, 'category')}.json"


def scores_path(results_dir: Path, dataset: str, run_id: str, category: str) -> Path:
    """Where the image scores of a category lie, beside its record."""
    return record_path(results_dir, dataset, run_id, category).with_name(f"{category}.scores.csv")


def curves_path(results_dir: Path, dataset: str, run_id: str, category: str) -> Path:
    """Where the points of a category's pixel curves lie, beside its record."""
    return record_path(results_dir, dataset, run_id, category).with_name(f"{category}.curves.csv")


def maps_path(results_dir: Path, run_id: str, category: str) -> Path:
    """Where the anomaly maps of a category lie, if they were asked for."""
    return Path(results_dir) / "maps" / safe_name(run_id, "run_id") / f"{safe_name(category, 'category')}.npz"


def safe_name(name: str, what: str) -> str:
    """``name`` itself if one file or folder can be called so, Unicode and spaces included.

    Raises InputError that calls it ``what`` for names that are empty, too long, climb (``..``) or hold ``/`` or NUL.
    """
    try:
        length = len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= _LONGEST_NAME or name in {".", ".."} or "/" in name or "\0" in name:
        raise InputError(
            f"{what} {printable(name)!r} cannot be the name of a file: rename it to at most {_LONGEST_NAME} bytes "
            "without '/' and other than '.' and '..'"
        )
    return name


def check_writable(results_dir: Path) -> None:
    """Create the results folder and try a file in it, so that nothing is computed that cannot be kept.

    Raises InputError if either fails.
    """
    probe = Path(results_dir) / f".{secrets.token_hex(8)}.probe"
    try:
        write_atomically(probe, b"")
    except InputError as error:
        raise InputError(f"results_dir={printable(str(results_dir))} cannot be written to: {error}") from error
    probe.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that nobody ever sees half of it, creating its folder where needed.

    content  the bytes, or a function that writes them to the open file it is given

    Raises InputError if the file system refuses, and whatever ``content`` raises; an earlier file of that name then
    stays as it was and nothing else is left behind.
    """
    try:
        for _ in range(_TRIES - 1):
            with suppress(FileNotFoundError):  # another process has deleted the folder in between
                _write_once(path, content)
                return
        _write_once(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path} ({reason(error)}): make room or choose another folder") from error


def _write_once(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    # Not after the file's own name: that may already be as long as a name can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(
    results_dir: Path,
    record: Record,
    scores: Iterable[Score],
    maps: Mapping[str, np.ndarray] | None = None,
    *,
    curve: Iterable[tuple[float, float, float]] = (),
    type_maps: tuple[Sequence[str], Mapping[str, np.ndarray]] | None = None,
    head: bytes | None = None,
) -> Path:
    """Write a finished category: maps where given, scores, curve, and the record last. Returns the record's path.

    maps   path relative to the category -> (height, width) anomaly map, stored as float32
    type_maps  names of classes, and path -> (height, width) index of one at each pixel; stored beside the maps
    head       a trained head, stored beside the record
    curve  false-positive rate, recall and per-region overlap of pixels at falling thresholds

    Raises InputError for values that are not finite, names that cannot be files, and a refusing file system.
    """
    place = (record.dataset, record.run_id, record.category)
    # Everything is put into bytes, and thereby checked, before the first of it is written; maps are large and stream.
    record_bytes, scores_bytes = to_json(record), _scores_csv(scores)
    if maps is not None:
        write_atomically(maps_path(results_dir, *place[1:]), lambda file: _write_maps(file, maps))
    if type_maps is not None:
        names, by_path = type_maps
        arrays = [(CLASSES, np.array(list(names))), *by_path.items()]
        path = maps_path(results_dir, *place[1:]).with_name(f"{record.category}.types.npz")
        write_atomically(path, lambda file: _write_arrays(file, arrays, zipfile.ZIP_DEFLATED))
    if head is not None:
        write_atomically(record_path(results_dir, *place).with_name(f"{record.category}.head.safetensors"), head)
    write_atomically(scores_path(results_dir, *place), scores_bytes)
    write_atomically(curves_path(results_dir, *place), _curves_csv(curve))
    path = record_path(results_dir, *place)
    write_atomically(path, record_bytes)
    return path


def to_json(record: Record) -> bytes:
    """The bytes of a record's file: sorted keys, floats in full. Raises InputError for a record that is not valid."""
    try:
        content = {key: value for key, value in asdict(record).items() if key not in _OPTIONAL or value is not None}
        _validate(content)
        text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InputError(f"the record of {printable(record.category)} cannot be written: {error}") from error
    return _encode(text + "\n")


def read(path: Path) -> Record:
    """The record in a file. Raises InputError if it cannot be read, is not valid or lies in another one's place."""
    try:
        check_regular(path)
        content = parse_json(read_bytes(path, _LARGEST_RECORD))
        _validate(content)
        record = Record(**content)
        place = (path.parent.parent.name, path.parent.name, path.name.removesuffix(".json"))
        if (record.dataset, record.run_id, record.category) != place:
            raise ValueError("its dataset, run_id or category is not that of its place")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{printable(str(path))} is not a usable record ({printable(reason(error))}): "
            "delete it and run the same command again"
        ) from error
    return record


def read_all(
    results_dir: Path, dataset: str | None = None, run_ids: Collection[str] | None = None
) -> tuple[list[Record], list[str]]:
    """All records under a results folder, sorted by dataset, run and category, and one sentence per broken one.

    dataset, run_ids  keep only these
    """
    found, broken = [], []
    for path in sorted((Path(results_dir) / "records").glob("*/*/*.json")):
        if dataset not in {None, path.parent.parent.name} or (run_ids is not None and path.parent.name not in run_ids):
            continue
        try:
            found.append(read(path))
        except InputError as error:
            broken.append(str(error))
    return sorted(found, key=lambda record: (record.dataset, record.run_id, record.category)), broken


def stamps(results_dir: Path, dataset: str | None = None, run_id: str | None = None) -> set[tuple[str, int, int]]:
    """Which records there are and which file each is: another set where one has come, gone or been written again.

    dataset, run_id  only of these
    """
    found = set()
    pattern = "/".join("*" if part is None else glob.escape(part) for part in (dataset, run_id))
    for path in (Path(results_dir) / "records").glob(f"{pattern}/*.json"):
        try:
            status = path.stat()
        except OSError:
            continue
        found.add((str(path), status.st_ino, status.st_mtime_ns))
    return found


def finished(results_dir: Path, dataset: str, run_id: str, category: str) -> Record | None:
    """The record of a category if it is finished, else None; a broken record is not, and is logged as a warning."""
    place = (results_dir, dataset, run_id, category)
    path = record_path(*place)
    # What lies beside it was written before, but may have been deleted since.
    if not all(file.exists() for file in (path, scores_path(*place), curves_path(*place))):
        return None
    try:
        return read(path)
    except InputError as error:
        log.warning("computing it again: %s", error)
        return None


def _scores_csv(scores: Iterable[Score]) -> bytes:
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    scores = list(scores)
    decided = any(score.predicted is not None for score in scores)
    plain.writerow(Score._fields if decided else Score._fields[:-1])
    for path, defect, label, image_score, predicted in scores:
        if not math.isfinite(image_score):
            raise InputError(f"the image score of {printable(path)} is {image_score}: check this image and the weights")
        row = (path, defect, int(label), repr(float(image_score)), *([predicted or ""] if decided else []))
        # Python quotes a carriage return only if lines end with one, and readers take it for the end of a line.
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return _encode(text.getvalue())


def _curves_csv(curve: Iterable[tuple[float, float, float]]) -> bytes:
    rows = (",".join(f"{rate:.6g}" for rate in point) for point in curve)
    return "\n".join(["fpr,tpr,pro", *rows, ""]).encode()


def _write_maps(file: BinaryIO, maps: Mapping[str, np.ndarray]) -> None:
    def checked() -> Iterator[tuple[str, np.ndarray]]:
        for key, values in maps.items():
            if not np.isfinite(values).all():
                raise InputError(f"the anomaly map of {printable(key)} is not finite: check this image and the weights")
            yield key, np.asarray(values, np.float32)

    _write_arrays(file, checked())


def _write_arrays(
    file: BinaryIO, arrays: Iterable[tuple[str, np.ndarray]], compression: int = zipfile.ZIP_STORED
) -> None:
    # np.savez takes its keys as keyword arguments, where an image called "file" collides with its own parameters.
    with zipfile.ZipFile(file, "w", compression) as archive:
        for key, values in arrays:
            member = zipfile.ZipInfo(f"{_encode(key).decode()}.npy")
            member.compress_type = compression
            with archive.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, values, allow_pickle=False)


def _encode(text: str) -> bytes:
    """UTF-8; what has none (file names that are not Unicode) as ``\\udcXX``, which JSON reads back as it was."""
    return text.encode("utf-8", "backslashreplace")


def _validate(content: Any) -> None:
    """Raise ValueError with the first thing about a record's content that readers could stumble over."""
    kinds = {
        "run_id": str, "dataset": str, "category": str, "config": dict, "metrics": dict, "undefined": dict,
        "warnings": list, "counts": dict, "references": list, "timing": dict, "provenance": dict, "schema": int,
    }  # fmt: skip
    _require(isinstance(content, dict), "it is not a JSON object")
    _require(content.get("schema") == SCHEMA, f"schema is {content.get('schema')!r}, this version reads {SCHEMA}")
    odd = sorted((content.keys() - _OPTIONAL) ^ ({field.name for field in fields(Record)} - _OPTIONAL))
    _require(not odd, f"missing or unknown: {', '.join(map(str, odd))}")
    _require(all(isinstance(content.get(key, {}), dict) for key in _OPTIONAL), "typing or summary is not a dict")
    if content.get("typing") is not None:
        _validate_typing(content["typing"])
    for key, kind in kinds.items():
        _require(_is(content[key], kind), f"{key} is not a {kind.__name__}")
    _require(_RUN_ID.fullmatch(content["run_id"]) is not None, "run_id is not 12 hex digits")
    for name, metric in content["metrics"].items():
        if metric is not None:
            _require(
                _is(metric, _NUMBER) and -_ROUNDING <= metric <= 1 + _ROUNDING, f"{name} is {metric!r}, not in 0–1"
            )
    nulls = {name for name, value in content["metrics"].items() if value is None}
    _require(nulls == content["undefined"].keys(), "undefined does not name exactly the metrics that are null")
    _require(all(isinstance(why, str) for why in content["undefined"].values()), "undefined holds other than reasons")
    _require(all(isinstance(text, str) for text in content["warnings"]), "warnings holds other than sentences")
    _require(all(_is(seconds, _NUMBER) for seconds in content["timing"].values()), "timing holds other than seconds")
    for reference in content["references"]:
        _require(isinstance(reference, dict) and reference.keys() == {"path", "sha256"}, "a reference lacks a key")
        _require(all(isinstance(text, str) for text in reference.values()), "a reference holds other than text")
        _require(_SHA256.fullmatch(reference["sha256"]) is not None, "the sha256 of a reference is none")
    for keys, kind in _CONFIG.items():
        value: Any = content["config"]
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        _require(_is(value, kind), f"config.{'.'.join(keys)} is not a {kind.__name__}")
    _require(all(_is(scale, int) for scale in content["config"]["scales"]), "config.scales holds other than integers")
    names = content["config"]["dataset"].get("categories") or []
    _require(
        isinstance(names, list) and all(isinstance(name, str) for name in names), "config.dataset.categories is no list"
    )


def _validate_typing(typing: Mapping[str, Any]) -> None:
    """Likewise about the section of methods that name defects, which is described in `report.typing`."""
    keys = {"stage", "type", "binary", "threshold", "oracle"}
    _require(typing.keys() == keys, f"typing has other keys than {', '.join(sorted(keys))}")
    _require(typing["stage"] in ("single", "two", "defects_only"), "typing.stage is none")
    _require(_is_comparison(typing["type"]), "typing.type compares no labels")
    _require(typing["binary"] is None or _is_comparison(typing["binary"]), "typing.binary compares no labels")
    cut = typing["threshold"]
    _require(_is_cut(cut) or (cut is None and typing["stage"] != "two"), "typing.threshold is none")
    _require(
        isinstance(typing["oracle"], dict)
        and all(
            isinstance(oracle, dict) and _is_cut(oracle.get("threshold")) and _is_comparison(oracle.get("binary"))
            for oracle in typing["oracle"].values()
        ),
        "typing.oracle holds other than thresholds and what they decide",
    )


def _is_comparison(found: Any) -> bool:
    """Whether it is what `metrics.classification.section` makes."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in ("classes", "confusions")):
        return False
    classes, confusion, per_class = found["classes"], found.get("confusion"), found.get("per_class")
    return (
        all(isinstance(name, str) for name in classes)
        and isinstance(confusion, list)
        and len(confusion) == len(classes)
        and all(isinstance(row, list) and len(row) == len(classes) for row in confusion)
        and all(_is(count, int) for row in confusion for count in row)
        and isinstance(per_class, dict)
        and per_class.keys() == set(classes)
        and all(isinstance(of, dict) and _is(of.get("support"), int) for of in per_class.values())
        and all(
            name in of and _is(of[name], (*_NUMBER, type(None)))
            for of in per_class.values()
            for name in ("precision", "recall", "f1")
        )
        and all(isinstance(mistake, list) and len(mistake) == 3 for mistake in found["confusions"])
        and all(isinstance(name, str) for mistake in found["confusions"] for name in mistake[:2])
    )


def _is_cut(cut: Any) -> bool:
    """Whether it is a threshold as `methods.thresholds` writes it."""
    if not isinstance(cut, dict) or not {"rule", "value", "inclusive", "promised", "interval", "note"} <= cut.keys():
        return False
    interval = cut["interval"]
    return (
        all(isinstance(cut[key], str) for key in ("rule", "note"))
        and all(_is(cut[key], (*_NUMBER, type(None))) for key in ("value", "promised"))
        and (
            interval is None
            or (isinstance(interval, list) and len(interval) == 2 and all(_is(end, _NUMBER) for end in interval))
        )
    )


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
