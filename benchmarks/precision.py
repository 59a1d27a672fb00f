"""How far two runs of the same thing are apart, in maps, image scores and metrics; markdown on standard output.

    python run.py -m k_shot=0,4 runtime.precision=fp32,bf16 save_maps=true results_dir=apart
    python benchmarks/precision.py apart

Pairs the runs under a results folder that differ in nothing but runtime.precision.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from winclip_bench import records
from winclip_bench.records import Record


def image_scores(results_dir: Path, record: Record) -> np.ndarray:
    """Image scores of a record's test images, in the order of their paths."""
    path = records.scores_path(results_dir, record.dataset, record.run_id, record.category)
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted((row["path"], float(row["image_score"])) for row in csv.DictReader(file))
    return np.array([score for _, score in rows])


def map_difference(results_dir: Path, one: Record, other: Record) -> tuple[float, float]:
    """Largest difference of any pixel of two records' maps, and the range of the first one's values."""
    paths = [records.maps_path(results_dir, record.run_id, record.category) for record in (one, other)]
    largest, low, high = 0.0, np.inf, -np.inf
    with np.load(paths[0], allow_pickle=False) as mine, np.load(paths[1], allow_pickle=False) as theirs:
        for key in mine.files:
            values = mine[key]
            largest = max(largest, float(np.abs(values - theirs[key]).max()))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return largest, high - low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results_dir", type=Path)
    results_dir = parser.parse_args().results_dir
    alike: dict[tuple[str, ...], dict[str, Record]] = defaultdict(dict)
    for record in records.read_all(results_dir)[0]:
        config = {**record.config, "runtime": None}
        alike[record.dataset, record.category, str(config)][record.config["runtime"]["precision"]] = record
    print("| category | k | maps, largest difference (of a range of) | image scores | metric that moves most |")
    print("|---|---|---|---|---|")
    for _, pair in sorted(alike.items()):
        if set(pair) != {"fp32", "bf16"}:
            continue
        one, other = pair["fp32"], pair["bf16"]
        largest, extent = map_difference(results_dir, one, other)
        scores = np.abs(image_scores(results_dir, one) - image_scores(results_dir, other)).max()
        moved = {
            name: abs(value - theirs)
            for name, value in one.metrics.items()
            if value is not None and (theirs := other.metrics[name]) is not None
        }
        most = max(moved, key=moved.__getitem__)
        print(
            f"| {one.category} | {one.config['k_shot']} | {largest:.1e} ({extent:.2f}) | {scores:.1e} "
            f"| {most} {moved[most]:.1e} |"
        )


if __name__ == "__main__":
    main()
