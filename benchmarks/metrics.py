"""How fast and how small the metrics are beside scikit-learn and the literature's region loops.

    python benchmarks/metrics.py            everything, a few minutes
    python benchmarks/metrics.py --quick    without the 1024² sizes

Prints one markdown table. Ratios count, not seconds: all contenders of a size see the same arrays in the same run.
Seconds are of one processor core, which other programs disturb less than the clock on the wall. Extra memory is the
growth of a process of its own beyond the arrays and the imports.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label, regionprops
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from winclip_bench.metrics import pixel_metrics, stream_pixel_metrics

Array = NDArray[Any]
GRID = 15  # patches along a side of ViT-B/16 at 240 pixels


def image(index: int, side: int, anomalous: bool) -> tuple[Array, Array]:
    """A float32 map as WinCLIP makes them (a patch grid, enlarged bilinearly), and an elliptic region or three."""
    rng = np.random.default_rng([index, side])
    at = np.clip((np.arange(side) + 0.5) * GRID / side - 0.5, 0, GRID - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(GRID))).astype(np.float32)
    grid = rng.normal(0.25, 0.06, (GRID, GRID)).astype(np.float32)
    mask = np.zeros((side, side), bool)
    for _ in range(rng.integers(1, 4) if anomalous else 0):
        (y, x), (h, w) = rng.uniform(0.15, 0.85, 2), rng.uniform(0.02, 0.1, 2)
        rows, columns = np.ogrid[:side, :side]
        mask |= ((rows / side - y) / h) ** 2 + ((columns / side - x) / w) ** 2 < 1
        patch = (np.arange(GRID) + 0.5) / GRID
        near = np.exp(-(((patch[:, None] - y) / (h + 0.05)) ** 2) - ((patch - x) / (w + 0.05)) ** 2)
        grid += (0.3 * rng.uniform(0.2, 1.0) * near).astype(np.float32)
    return weights @ grid @ weights.T, mask


def images(count: int, anomalous: int, side: int) -> Iterator[tuple[Array, Array]]:
    """``count`` images one by one, the first ``anomalous`` of them with regions."""
    return (image(index, side, index < anomalous) for index in range(count))


def scikit_learn(maps: Array, masks: Array) -> list[float]:
    """AUROC, AP and F1-max."""
    scores, labels = maps.ravel(), masks.ravel()
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return [roc_auc_score(labels, scores), average_precision_score(labels, scores), f1.max()]


def region_loops(maps: Array, masks: Array) -> list[float]:
    """The same three, and AUPRO by a loop over 200 thresholds, images and regions, as it is commonly computed."""
    low, high = float(maps.min()), float(maps.max())
    rates, overlaps = [], []
    normal = ~masks
    for threshold in low + np.arange(200) * (high - low) / 200:
        binary = maps > threshold
        overlaps.append(
            np.mean(
                [
                    found[tuple(region.coords.T)].sum() / region.area
                    for found, mask in zip(binary, masks, strict=True)
                    for region in regionprops(label(mask))
                ]
            )
        )
        rates.append((binary & normal).sum() / normal.sum())
    rate, overlap = np.array(rates), np.array(overlaps)
    rate, overlap = rate[rate < 0.3], overlap[rate < 0.3]
    rate = (rate - rate.min()) / (rate.max() - rate.min())
    return [*scikit_learn(maps, masks), auc(rate, overlap)]


def ours(maps: Array, masks: Array) -> list[float]:
    """All of them: AUROC, AP, F1-max, AUPRO at 0.3 and 0.05, and with 200 thresholds."""
    values = pixel_metrics(maps, masks).values
    return [values[name] or 0.0 for name in ("auroc_px", "ap_px", "f1_px", "aupro_200", "aupro")]


CONTENDERS: dict[str, Callable[[Array, Array], list[float]]] = {
    "winclip_bench": ours,
    "scikit-learn": scikit_learn,
    "scikit-learn + region loops": region_loops,
}
REPEATS = {"winclip_bench": 7, "scikit-learn": 3, "scikit-learn + region loops": 1}


def timed(contender: Callable[[Array, Array], list[float]], maps: Array, masks: Array, repeats: int) -> Any:
    """Processor seconds (the median of ``repeats``) and the numbers."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        numbers = contender(maps, masks)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), numbers


def peak_mib(restart: bool = False) -> float:
    """The most memory this process has held since the last restart of the count (Linux).

    Not ``ru_maxrss``, which a child process inherits from its parent.
    """
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024


def extra_memory(name: str, folder: Path) -> float:
    """MiB beyond the arrays, in a process of its own that loads them and runs one contender once."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def child(name: str, folder: Path) -> float:
    """The other side of `extra_memory`."""
    pixel_metrics([np.eye(8)], [np.eye(8, dtype=bool)])
    scikit_learn(np.eye(8), np.eye(8, dtype=bool))
    if name == "streaming":
        count, anomalous, side = json.loads((folder / "shape.json").read_text())
        image(0, side, True)
        before = peak_mib(restart=True)
        stream_pixel_metrics(lambda: images(count, anomalous, side))
    else:
        maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
        before = peak_mib(restart=True)
        CONTENDERS[name](maps, masks)
    return peak_mib() - before


def compare(count: int, anomalous: int, side: int) -> list[str]:
    """Rows of the table for one size of data set: every contender on the same arrays."""
    maps, masks = (np.stack(arrays) for arrays in zip(*images(count, anomalous, side), strict=True))
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "maps.npy", maps)
        np.save(Path(folder) / "masks.npy", masks)
        for name, contender in CONTENDERS.items():
            seconds, numbers = timed(contender, maps, masks, REPEATS[name])
            results[name] = seconds, extra_memory(name, Path(folder)), numbers
    base_seconds, base_memory, reference = results["winclip_bench"]
    for name, (seconds, memory, numbers) in results.items():
        apart = max(abs(a - b) for a, b in zip(numbers, reference, strict=False))
        rows.append(
            f"| {count} × {side}², {masks.mean():.1%} anomalous | {name} | {seconds:.3f} "
            f"| {seconds / base_seconds:.0f}× | {memory:.0f} | {memory / base_memory:.0f}× | {apart:.0e} |"
        )
    return rows


def large(count: int, anomalous: int, side: int) -> list[str]:
    """Rows for maps that are many and large: in memory, and streamed with each image made when it is asked for."""
    maps, masks = (np.empty((count, side, side), kind) for kind in (np.float32, bool))
    start = time.process_time()
    for index, (one, mask) in enumerate(images(count, anomalous, side)):
        maps[index], masks[index] = one, mask
    making = time.process_time() - start
    seconds, numbers = timed(ours, maps, masks, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shape.json").write_text(json.dumps([count, anomalous, side]))
        np.save(folder / "maps.npy", maps)
        np.save(folder / "masks.npy", masks)
        memory, streaming_memory = extra_memory("winclip_bench", folder), extra_memory("streaming", folder)
    what = f"{count} × {side}², {masks.mean():.1%} anomalous"
    del maps, masks
    start = time.process_time()
    values = stream_pixel_metrics(lambda: images(count, anomalous, side)).values
    streaming = time.process_time() - start
    apart = max(abs(a - (values[b] or 0.0)) for a, b in zip(numbers, ("auroc_px", "ap_px", "f1_px"), strict=False))
    return [
        f"| {what} | winclip_bench, in memory | {seconds:.2f} | | {memory:.0f} | | |",
        f"| {what} | winclip_bench, streaming (of which {2 * making:.1f} s make the images, twice) "
        f"| {streaming:.2f} | | {streaming_memory:.0f} | | {apart:.0e} |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of the metrics")
    parser.add_argument("--quick", action="store_true", help="only 110 images of 240²")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.folder)))
        return
    print("| images | metrics by | core seconds | time | extra MiB | memory | largest difference |")
    print("|---|---|---|---|---|---|---|")
    print(*compare(110, 60, 240), sep="\n", flush=True)
    if not arguments.quick:
        print(*compare(25, 15, 1024), sep="\n", flush=True)
        print(*large(200, 100, 1024), sep="\n", flush=True)


if __name__ == "__main__":
    main()
