"""Measure demo models on the demo's test split: `python scripts/evaluate_demo_model.py WEIGHTS [WEIGHTS …]`.

Prints the tables of docs/demo_model.md: what each model scores, with intervals over the test images, and the spread
over all models that are named. `untrained` stands for random weights.
"""

import argparse
import csv
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor

from winclip_bench import config as configuration
from winclip_bench import runner
from winclip_bench.clip import prompts
from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone
from winclip_bench.clip.tiles import cut, resize_mask
from winclip_bench.config import Config
from winclip_bench.data import GOOD, Category, open_dataset, read_image, read_mask
from winclip_bench.data.demo import HELD_OUT_CATEGORIES, HELD_OUT_DEFECTS, write_demo
from winclip_bench.data.demo.scenes import SIZE
from winclip_bench.methods import winclip
from winclip_bench.metrics import Resampled, mean_over_classes, resample_pixels, resample_samples

SHOTS = 4
DEFECT_STATES = ("[c] with a [d]", "[c] with [d]")
ZERO, FEW, ASSOCIATION = "k = 0", f"k = {SHOTS}", "association"

Map = NDArray[np.float32]
Measured = dict[str, dict[str, tuple[float, float, float]]]  # defects -> metric -> value, low and high end

# Which test images a row of the table is about, besides the normal ones of the same categories.
ROWS: dict[str, Callable[[str, str], bool]] = {
    "seen types": lambda category, defect: defect not in HELD_OUT_DEFECTS,
    "held-out types": lambda category, defect: defect in HELD_OUT_DEFECTS,
    "seen types, seen categories": lambda category, defect: not held_out(category) and defect not in HELD_OUT_DEFECTS,
    "held-out categories": lambda category, defect: held_out(category),
    "everything": lambda category, defect: True,
}


def held_out(category: str) -> bool:
    """Whether no model has seen this category."""
    return category in HELD_OUT_CATEGORIES


@dataclass(frozen=True)
class Scored:
    """The test images of one category.

    defects       of each image, `good` for a normal one
    masks         [n, H, W]
    image_scores  ZERO and FEW -> [n]
    maps          ZERO, FEW and ASSOCIATION -> [n, H, W]
    """

    defects: list[str]
    masks: list[NDArray[np.bool_]]
    image_scores: dict[str, list[float]]
    maps: dict[str, list[Map]]


def settings(*overrides: str) -> Config:
    """The configuration of `python run.py` with these overrides."""
    configuration.register()
    with initialize_config_module("winclip_bench.conf", version_base="1.3"):
        return configuration.resolve(compose("config", overrides=list(overrides)))


def score(pretrained: str, root: Path, categories: Sequence[Category]) -> dict[str, Scored]:
    """What the harness itself makes of a folder of categories, without and with references, by category."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    maps: dict[str, dict[str, dict[str, Map]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting, shots in ((ZERO, 0), (FEW, SHOTS)):
            results = Path(folder, str(shots))
            overrides = ["dataset=folder", f"dataset.root={root}", "backbone=demo", f"backbone.pretrained={pretrained}"]
            overrides += [f"k_shot={shots}", "save_maps=true", f"results_dir={results}", f"runtime.cache_dir={folder}"]
            with redirect_stdout(StringIO()):
                if runner.run(settings(*overrides)) != 0:
                    raise SystemExit(f"{pretrained} could not be run on {root}")
            for category in categories:
                [file] = results.glob(f"records/*/*/{category.name}.scores.csv")
                with file.open(newline="") as rows:
                    found = {row["path"]: float(row["image_score"]) for row in csv.DictReader(rows)}
                [file] = results.glob(f"maps/*/{category.name}.npz")
                with np.load(file) as archive:
                    maps.setdefault(category.name, {})[setting] = dict(archive)
                scores.setdefault(category.name, {})[setting] = found
    return {category.name: together(category, scores[category.name], maps[category.name]) for category in categories}


def together(
    category: Category, scores: Mapping[str, Mapping[str, float]], maps: Mapping[str, Mapping[str, Map]]
) -> Scored:
    """Scores and maps of a category in the order of its test images; the association map is taken out of their mean
    with the text map, which is the map without references."""
    keys = [sample.key for sample in category.test]
    ordered = {setting: [of[key] for key in keys] for setting, of in maps.items()}
    ordered[ASSOCIATION] = [2 * few - zero for few, zero in zip(ordered[FEW], ordered[ZERO], strict=True)]
    masks = [
        np.zeros(shown.shape, bool)
        if not sample.masks
        else resize_mask(read_mask(sample.masks[0], (SIZE, SIZE)), shown.shape, "nearest")
        for sample, shown in zip(category.test, ordered[ZERO], strict=True)
    ]
    image_scores = {setting: [of[key] for key in keys] for setting, of in scores.items()}
    return Scored([sample.defect for sample in category.test], masks, image_scores, ordered)


def resampled(
    scored: Mapping[str, Scored], setting: str, among: Callable[[str, str], bool], resamples: int
) -> dict[str, Resampled]:
    """Image and pixel metrics, mean over the categories, on the normal images and the defects chosen by `among`."""
    images: dict[str, Resampled] = {}
    pixels: dict[str, Resampled] = {}
    for category, one in scored.items():
        chosen = [i for i, defect in enumerate(one.defects) if defect == GOOD or among(category, defect)]
        labels = np.array([one.defects[i] != GOOD for i in chosen])
        if not labels.any():
            continue
        if setting in one.image_scores:
            scores = [one.image_scores[setting][i] for i in chosen]
            images[category] = resample_samples(scores, labels, seed=0, category=category, resamples=resamples)
        pairs = [(one.maps[setting][i], one.masks[i]) for i in chosen]
        pixels[category] = resample_pixels(
            partial(iter, pairs), labels=labels, seed=0, category=category, resamples=resamples
        )
    return {kind: mean_over_classes(part) for kind, part in (("image", images), ("pixel", pixels)) if part}


def unit_prototype(backbone: Backbone, name: str, states: Sequence[str], config: Config) -> Tensor:
    """The text prototype [E] of some states of a category."""
    embeddings = backbone.encode_prompts(prompts.compose(name, states, config.prompts.templates))
    return winclip.prototypes(embeddings, embeddings, "mean_of_unit")[0]


def typing_accuracy(
    backbone: Backbone, categories: Sequence[Category], kinds: Sequence[str], config: Config
) -> tuple[float, float, float]:
    """Of all images that are good or of one of these types, the share whose type is named right; with its interval.

    Two stages: normal or anomalous by the nearer text prototype, then the nearest type.
    """
    right = []
    for category in categories:
        name = category.name.replace("_", " ")
        sides = [
            unit_prototype(backbone, name, states, config)
            for states in (config.prompts.normal_states, config.prompts.anomalous_states)
        ]
        types = [
            unit_prototype(
                backbone, name, [state.replace("[d]", kind.replace("_", " ")) for state in DEFECT_STATES], config
            )
            for kind in kinds
        ]
        for sample in category.test:
            if sample.defect != GOOD and sample.defect not in kinds:
                continue
            tiles = cut(
                read_image(sample.image), backbone.image_size, backbone.mean, backbone.std,
                non_square="tile", stride=1.0, resize="pil",
            )  # fmt: skip
            image = backbone.encode_images(tiles.pixels, []).image[0]
            normal, anomalous = (torch.stack(sides) @ image).tolist()
            named = GOOD if normal >= anomalous else kinds[int((torch.stack(types) @ image).argmax())]
            right.append(named == sample.defect)
    share = float(np.mean(right))
    half = 1.96 * (share * (1 - share) / len(right)) ** 0.5
    return share, share - half, share + half


def measure(pretrained: str, root: Path, resamples: int) -> Measured:
    """All numbers of one model: AUROC as the mean over categories, and the share of correctly named defects."""
    categories = open_dataset("mvtec", root, "demo").categories
    scored = score(pretrained, root, categories)
    results: Measured = {}
    for row, among in ROWS.items():
        results[row] = {}
        for setting in (ZERO, FEW, ASSOCIATION):
            for kind, one in resampled(scored, setting, among, resamples).items():
                interval = one.intervals()["auroc_px" if kind == "pixel" else "auroc_sp"]
                results[row][f"{setting} {kind}"] = (interval.value, interval.low, interval.high)

    config = settings("backbone=demo")
    backbone = load_backbone(find_weights(config.backbone.architecture, pretrained))
    types = sorted({sample.defect for category in categories for sample in category.test} - {GOOD})
    seen = [kind for kind in types if kind not in HELD_OUT_DEFECTS]
    results["seen types"]["type named"] = typing_accuracy(backbone, categories, seen, config)
    results["everything"]["type named"] = typing_accuracy(backbone, categories, types, config)
    return results


def spread(measured: Sequence[Measured]) -> Measured:
    """The first model's values between the least and the greatest of all models."""
    values = {row: {name: [one[row][name][0] for one in measured] for name in measured[0][row]} for row in measured[0]}
    return {row: {name: (v[0], min(v), max(v)) for name, v in metrics.items()} for row, metrics in values.items()}


def to_markdown(results: Measured) -> str:
    """A table of every value and its range."""
    columns = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    cells = [
        [row, *("{:.2f} ({:.2f}–{:.2f})".format(*metrics[name]) if name in metrics else "" for name in columns)]
        for row, metrics in results.items()
    ]
    return tabulate(cells, ["defects", *columns], tablefmt="pipe")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--root", type=Path, help="a folder of categories instead of the demo data")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--json", type=Path, help="a file for the numbers in full")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = arguments.root or write_demo(Path(settings().runtime.cache_dir))
    measured = {weights: measure(weights, root, arguments.resamples) for weights in arguments.weights}
    for weights, results in measured.items():
        print(f"\n{weights}\n\n{to_markdown(results)}")
    if len(measured) > 1:
        print(f"\nleast and greatest of {len(measured)}\n\n{to_markdown(spread(list(measured.values())))}")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
