"""Whether thresholds calibrated on a few references keep their promise: promised against measured false-alarm rates.

    python benchmarks/calibration.py --svg docs/calibration.svg

On the embedded demo with its own backbone: from each of many draws of k references, every rule makes a threshold for
every promised rate, by the functions that method=defect_types calibrates with, and decides on the normal images of the
category that were not drawn. Draws are from all normal images of a category, those of its test split included; labels
of anomalous images take no part. Prints a markdown table; --svg draws it too.
"""

import argparse
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from winclip_bench import cli, runner
from winclip_bench.data import Category
from winclip_bench.encoding import ImageFile
from winclip_bench.methods import defect_types, thresholds
from winclip_bench.methods.thresholds import Threshold, measured_rates
from winclip_bench.pipelines.augmenting import augmented
from winclip_bench.pipelines.deciding import FEW, winclip_left_out
from winclip_bench.pipelines.shared import Evaluation, encode_images, image_files
from winclip_bench.pipelines.winclip import encode_text, score_images
from winclip_bench.records import write_atomically
from winclip_bench.report.typing import calibration_svg, calibration_table

RULES: dict[str, Callable[[Tensor, float], Threshold]] = {
    "conformal": lambda scores, rate: thresholds.conformal(scores[:, 0], rate),
    "normal": thresholds.normal,
}
RATES = (0.05, 0.1, 0.2, 0.3)

Drawn = tuple[Tensor, Tensor]  # scores [k, a] of references and their copies, and of the images that were not drawn


def compositional(run: Evaluation, category: Category, images: Sequence[ImageFile]) -> Callable[[list[int]], Drawn]:
    """Scores by words alone: those of a draw are rows of one table."""
    text = encode_text(run.encoder, run.class_names[category.name], run.config)
    copies = _copies(run, images)
    table = torch.stack(
        [defect_types.compositional_difference(run.encoder.features(some, "image"), text) for some in copies]
    ).double()

    def of(drawn: list[int]) -> Drawn:
        left = [index for index in range(len(images)) if index not in drawn]
        return table[drawn, : table.shape[1] if len(drawn) < FEW else 1], table[left, 0]

    return of


def winclip_plus(run: Evaluation, category: Category, images: Sequence[ImageFile]) -> Callable[[list[int]], Drawn]:
    """WinCLIP+ scores: of the references each against the others, of the rest against all of them."""
    text = encode_text(run.encoder, run.class_names[category.name], run.config)
    copies = _copies(run, images)

    def of(drawn: list[int]) -> Drawn:
        calibration = [copies[index] if len(drawn) < FEW else copies[index][:1] for index in drawn]
        references = [images[index] for index in drawn]
        # One at a time, so that comparisons with a reference are remembered from draw to draw.
        rest = [
            score_images(run, [image], references, text)[0][0]
            for index, image in enumerate(images)
            if index not in drawn
        ]
        return winclip_left_out(run, category, calibration), torch.tensor(rest, dtype=torch.float64)

    return of


FIRST_STAGES = {"compositional": compositional, "winclip": winclip_plus}


def _copies(run: Evaluation, images: Sequence[ImageFile]) -> list[list[ImageFile]]:
    made = (run.config.runtime.cache_dir, run.config.dataset.max_pixels)
    return [[image, *augmented(image, *made)] for image in images]


def points(
    run: Evaluation, categories: Sequence[Category], first_stage: str, shots: Sequence[int], draws: int
) -> Iterator[dict[str, Any]]:
    """One point per k, rule and promised rate, over all categories and draws; see `report.typing`."""
    counted: dict[tuple[int, str, float], list[tuple[int, bool]]] = {}
    for category in categories:
        normal = [sample for sample in (*category.train, *category.test) if not sample.label]
        images = image_files(run, normal)
        encode_images(run, category, [copy for some in _copies(run, images) for copy in some])
        scores = FIRST_STAGES[first_stage](run, category, images)
        for k in shots:
            for drawn in _draws(len(images), k, draws):
                calibration, rest = scores(drawn)
                for rule, make in RULES.items():
                    for rate in RATES:
                        threshold = make(calibration, rate)
                        alarms = int(threshold.decide(rest).sum())
                        counted.setdefault((k, rule, rate), []).append((alarms, math.isinf(threshold.value)))
        print(f"{first_stage}: {category.name}", file=sys.stderr)
        run.encoder.forget()
    for (k, rule, rate), found in counted.items():
        left = len(images) - k
        yield {
            "scores": first_stage, "rule": rule, "k": k, "promised": rate, "draws": len(found), "images": left,
            "unbounded": sum(unbounded for _, unbounded in found) / len(found),
            **measured_rates([count for count, _ in found], left),
        }  # fmt: skip


def _draws(images: int, k: int, draws: int) -> Iterator[list[int]]:
    for seed in range(draws):
        yield random.Random(f"{seed} {k}").sample(range(images), k)


def _side_by_side(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Points of one promise next to each other instead of upon each other."""
    shown = []
    for rate in RATES:
        some = [point for point in found if point["promised"] == rate and point["unbounded"] < 1]
        places = list(dict.fromkeys((point["scores"], point["k"]) for point in some))
        for point in some:
            place = places.index((point["scores"], point["k"])) - (len(places) - 1) / 2
            half = 0.001 if point["rule"] == "conformal" else -0.001
            shown.append({**point, "promised": rate + 0.004 * place - half})
    return shown


def main() -> None:
    """Measure, print the table, and draw it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50, help="per category and k")
    parser.add_argument("--k", type=int, nargs="+", default=[4, 8, 12], help="references")
    parser.add_argument("--first-stage", nargs="+", choices=list(FIRST_STAGES), default=list(FIRST_STAGES))
    parser.add_argument("--svg", type=Path, help="where to draw it")
    options = parser.parse_args()
    run, categories = runner.prepare(cli.compose(["dataset=demo", "backbone=demo"]))
    found = [
        point
        for first_stage in options.first_stage
        for point in points(run, categories, first_stage, options.k, options.draws)
    ]
    print(calibration_table(found))
    if options.svg is not None:
        shots = ", ".join(map(str, options.k))
        title = f"At each promise from left to right: {', '.join(options.first_stage)}, each k = {shots}"
        write_atomically(options.svg, calibration_svg(_side_by_side(found), title).encode())


if __name__ == "__main__":
    main()
