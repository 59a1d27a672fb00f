"""Scores, decisions and heatmaps of one's own images: `winclip-bench predict IMAGES… --class-name NAME --out DIR`.

Without references this is WinCLIP: words alone, no threshold. With a folder of normal images it is WinCLIP+, and with
two or more of them a threshold is calibrated on them. Written to DIR: `predictions.csv`, `predictions.json`, and for
each image a heatmap, all on one colour scale.

With --head a linear head that `run.py method=linear_head` has saved: log-odds and decisions by its threshold, and no
heatmaps, because it sees images as a whole.
"""

import argparse
import csv
import glob
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from winclip_bench.data import read_image
from winclip_bench.data.layouts import listing
from winclip_bench.errors import InputError, printable
from winclip_bench.estimator import TrainedHead, WinCLIP
from winclip_bench.pictures import colour_scale, coloured
from winclip_bench.records import check_writable, write_atomically

_LONGEST_SIDE = 1024  # pixels of a heatmap
_OPACITY = 0.55  # of the colours over the image


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The images that files, folders and globs name, each once, in their order.

    Raises InputError for an argument that names none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            some = sorted(listing.images(path))
        elif path.exists():
            some = [path]
        else:
            matches = map(Path, sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207  (absolute patterns too)
            some = [match for match in matches if not match.is_dir()]
        if not some:
            raise InputError(f"{argument} names no image; give image files, folders of them, or a quoted pattern")
        found.update(dict.fromkeys(some))
    return list(found)


def heatmap(image: Image.Image, anomaly_map: NDArray[np.float32], low: float, high: float) -> Image.Image:
    """The image with its anomaly map over it, as large as the image but for a limit; colours from `low` to `high`."""
    shrink = min(1.0, _LONGEST_SIDE / max(image.size))
    size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
    values = np.asarray(Image.fromarray(anomaly_map).resize(size, Image.Resampling.BILINEAR))
    return Image.blend(image.resize(size), Image.fromarray(coloured(values, low, high)), _OPACITY)


def predict(model: WinCLIP, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Predict and write; returns one row per image. Raises InputError naming an image that cannot be read."""
    check_writable(out)
    threshold = model.threshold_
    scores, maps = [], []
    for score, anomaly_map in tqdm(model.predict_each(images), total=len(images), unit="image", disable=None):
        scores.append(score)
        maps.append(anomaly_map)
    low, high = colour_scale(maps)
    rows = []
    for number, (path, score, anomaly_map) in enumerate(zip(images, scores, maps, strict=True)):
        name = f"heatmaps/{number:04d}_{path.stem}.png"
        content = io.BytesIO()
        heatmap(read_image(path), anomaly_map, low, high).save(content, "PNG")
        write_atomically(out / name, content.getvalue())
        decision = None if threshold is None else _decision(score, threshold.value)
        rows.append({"path": str(path), "score": score, "decision": decision, "heatmap": name})

    summary = {
        "class_name": model.class_name_,
        "backbone": model.settings.backbone,
        "pretrained": model.settings.pretrained,
        "threshold": None if threshold is None else threshold.as_dict(),
        "colours": {"low": low, "high": high},
    }
    _write(out, rows, summary)
    return rows


def predict_by_head(head: TrainedHead, images: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Predict with a trained head and write; otherwise as `predict`, without heatmaps."""
    check_writable(out)
    cut = head.threshold
    rows = []
    scores = tqdm(head.predict_each(images), total=len(images), unit="image", disable=None)
    for path, score in zip(images, scores, strict=True):
        decision = None if cut is None else _decision(score, cut.value, inclusive=cut.inclusive)
        rows.append({"path": str(path), "score": score, "decision": decision})
    summary = {
        "class_name": head.class_name,
        "backbone": head.backbone,
        "pretrained": head.pretrained,
        "threshold": None if cut is None else cut.as_dict(),
    }
    _write(out, rows, summary)
    return rows


def _write(out: Path, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    table = io.StringIO(newline="")
    # Python quotes a carriage return only if lines end with one, and readers take it for the end of a line.
    returns = any("\r" in row["path"] for row in rows)
    writer = csv.DictWriter(
        table, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    writer.writerows({**row, "path": _no_formula(row["path"])} for row in rows)
    write_atomically(out / "predictions.csv", table.getvalue().encode("utf-8", "surrogateescape"))
    content = json.dumps({**summary, "images": rows}, indent=1) + "\n"
    write_atomically(out / "predictions.json", content.encode())


def _no_formula(path: str) -> str:
    """The same path, which no spreadsheet takes for a formula.

    >>> _no_formula("=1+1.png"), _no_formula("parts/000.png")
    ('./=1+1.png', 'parts/000.png')
    """
    return f"./{path}" if path.startswith(("=", "+", "-", "@")) else path


def _decision(score: float, threshold: float, *, inclusive: bool = False) -> str | None:
    if not math.isfinite(threshold):
        return None
    return "anomalous" if score > threshold or (inclusive and score == threshold) else "normal"


def _say_threshold(model: WinCLIP, references: int) -> str:
    threshold = model.threshold_
    if threshold is None:
        given = "no references" if references == 0 else "one reference"
        return f"no decision: {given}, and a threshold takes two or more; the scores only rank the images"
    low, high = threshold.interval or (0.0, 1.0)
    rate = model.settings.false_alarm_rate
    note = f" ({threshold.note})" if threshold.note else ""
    return (
        f"threshold {threshold.value:.4f} from {references} references, {threshold.rule} rule: promises {rate:.0%} "
        f"false alarms; with so few references the real rate may lie anywhere in {low:.0%}–{high:.0%}{note}"
    )


def _say_cut(head: TrainedHead) -> str:
    cut = head.threshold
    if cut is None or not math.isfinite(cut.value):
        return f"no decision: {cut.note if cut is not None and cut.note else 'the head has no threshold'}"
    note = f" ({cut.note})" if cut.note else ""
    return f"threshold {cut.value:.4f} of the head of {head.class_name}, {cut.rule} rule: promises nothing{note}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="winclip-bench predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or quoted patterns")
    parser.add_argument("--class-name", help="what the part is called, e.g. hazelnut; the head knows")
    parser.add_argument("--references", type=Path, metavar="DIR", help="folder of images of normal parts")
    parser.add_argument("--head", type=Path, metavar="FILE", help="<category>.head.safetensors beside a record")
    parser.add_argument("--backbone", default="demo", help="a name of conf/backbone (default: the embedded model)")
    parser.add_argument("--pretrained", metavar="TAG", help="a tag or checkpoint instead of the backbone's own weights")
    parser.add_argument("--false-alarm-rate", type=float, default=0.05, metavar="RATE", help="to calibrate for (0.05)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results are written")
    options = parser.parse_args(arguments)
    if options.head is None and options.class_name is None:
        parser.error("the following arguments are required: --class-name, or --head")
    if options.head is not None and (options.class_name or options.references):
        parser.error("--head has been trained already: leave out --class-name and --references")
    try:
        images = find_images(options.images)
        if options.head is not None:
            head = TrainedHead(options.head, options.backbone, pretrained=options.pretrained, device=options.device)
            rows, said = predict_by_head(head, images, options.out), _say_cut(head)
        else:
            references = [] if options.references is None else find_images([str(options.references)])
            model = WinCLIP(
                options.backbone,
                pretrained=options.pretrained,
                false_alarm_rate=options.false_alarm_rate,
                device=options.device,
            ).fit(references, class_name=options.class_name)
            rows, said = predict(model, images, options.out), _say_threshold(model, len(references))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    for row in rows:
        print(printable(f"{row['score']:.4f}  {row['decision'] or '–':9}  {row['path']}"))
    print(printable(said))
    print(printable(str(options.out / "predictions.csv")))
    return 0
