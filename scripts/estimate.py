"""What experiments will cost, before they start: `python scripts/estimate.py few_shot scales [overrides]`.

Images are counted where the data is, otherwise taken from results/published/dataset_counts.json; encoding is measured
here, on random weights. Everything is from nothing: what is stored or finished already costs nothing again.
"""

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path

import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from PIL import Image

from winclip_bench import cli
from winclip_bench.clip.__main__ import build, high_water_mark
from winclip_bench.clip.allocator import keep_freed_memory
from winclip_bench.clip.encoder import encode
from winclip_bench.clip.tiles import resized, tile_corners
from winclip_bench.config import Config, Device, Precision, ReferenceDraw
from winclip_bench.data import find_root, open_dataset
from winclip_bench.data.download import read_source, source_names
from winclip_bench.errors import InputError, printable

COUNTS = Path(__file__).parents[1] / "results" / "published" / "dataset_counts.json"
ASPECT = {"mvtec": (1, 1), "visa": (3, 2)}  # the longest image of a dataset that is not there yet

SCORING = 0.03  # seconds per image and run for scores, maps, masks and metrics; measured on two cores, images of 1024²
COMPARISONS = 1024  # MiB that a process keeps of comparisons with references, see docs/features.md

# Settings that change no more than what a job says itself, so that it need not be composed anew.
_LIGHT = ("k_shot", "seed", "scales", "prompts", "method.")


@dataclass(frozen=True)
class Images:
    """Of one category: how many there are in each split, and the (width, height) of one."""

    train: int
    test: int
    size: tuple[int, int]


@dataclass(frozen=True)
class Cost:
    """Of one tile: seconds to encode it and bytes on disk; and the memory of a process that does so, MiB."""

    seconds: float
    bytes: int
    memory: float


def jobs(experiment: str, overrides: Sequence[str]) -> Iterator[Config]:
    """The jobs of an experiment as run.py would sweep over them, each with its dataset, protocol, k, seed and scales.

    Raises InputError for an experiment or a setting that run.py would refuse.
    """
    file = resources.files("winclip_bench.conf") / "experiment" / f"{experiment}.yaml"
    if not file.is_file():
        raise InputError(f"there is no experiment {experiment} in conf/experiment")
    sweep = yaml.safe_load(file.read_text(encoding="utf-8")).get("hydra", {}).get("sweeper", {}).get("params", {})
    try:
        swept = [f"{key}={value}" for key, value in sweep.items()]
        parsed = OverridesParser.create().parse_overrides([*swept, *overrides])
    except HydraException as error:
        raise InputError(f"the settings are not accepted: {' '.join(str(error).split())}") from error
    choices: dict[str, list[str]] = {}  # the command line comes last and wins
    for override in parsed:
        key = override.get_key_element()
        text = override.input_line.split("=", 1)[-1] if override.input_line else ""
        values = override.sweep_string_iterator() if override.is_sweep_override() else [text]
        choices[key] = [f"{key}={value}" for value in values]
    for chosen in product(*choices.values()):
        heavy = tuple(setting for setting in chosen if not setting.startswith(_LIGHT))
        light = dict(setting.split("=", 1) for setting in chosen if setting.startswith(_LIGHT))
        config = composed(f"experiment={experiment}", *heavy)
        scales = yaml.safe_load(light["scales"]) if "scales" in light else config.scales
        k_shot, seed = int(light.get("k_shot", config.k_shot)), int(light.get("seed", config.seed))
        yield replace(config, k_shot=k_shot, seed=seed, scales=scales)


@cache
def composed(*overrides: str) -> Config:
    return cli.compose(overrides)


@cache
def images(layout: str, root: str | None, name: str, categories: tuple[str, ...] | None) -> dict[str, Images]:
    """The images of a dataset by category. Raises InputError where it is not there and nobody has counted it."""
    if layout in source_names() and not (root and Path(root).exists()):
        known = json.loads(COUNTS.read_text(encoding="utf-8"))[layout]
        return {
            category: Images(sum(v for k, v in counts.items() if k.startswith("train")), _test(counts), ASPECT[layout])
            for category, counts in known.items()
            if categories is None or category in categories
        }
    layout, folder = find_root(layout, root, Path())
    found = open_dataset(layout, folder, name, list(categories) if categories else None)
    return {
        category.name: Images(len(category.train), len(category.test), Image.open(category.test[0].image).size)
        for category in found.categories
    }


def _test(counts: dict[str, object]) -> int:
    """How many test images: by defect, or normal and anomalous ones."""
    by_defect = counts.get("test")
    parts = by_defect if isinstance(by_defect, dict) else {k: v for k, v in counts.items() if k.startswith("test_")}
    return sum(int(str(value)) for value in parts.values())


def images_of(config: Config) -> dict[str, Images]:
    dataset = config.dataset
    return images(
        dataset.layout.value, dataset.root, dataset.name, tuple(dataset.categories) if dataset.categories else None
    )


def tiles(planned: Sequence[Config], side: int) -> int:
    """How many tiles the jobs encode together: every test image once per way of resizing and cutting, and as many
    references as there are draws, though some draw the same ones."""
    draws: dict[tuple[object, ...], set[tuple[int, int]]] = {}
    ways: dict[tuple[object, ...], Config] = {}
    for config in planned:
        protocol = config.protocol
        way = (config.dataset.name, config.dataset.root, protocol.non_square, protocol.tile_stride, protocol.resize)
        ways.setdefault(way, config)
        seed = -1 if protocol.references is ReferenceDraw.first else config.seed
        draws.setdefault(way, set()).add((seed, config.k_shot))
    total = 0
    for way, config in ways.items():
        seeds = {seed for seed, _ in draws[way]}
        drawn = sum(max(k for seed, k in draws[way] if seed == each) for each in seeds)  # nested, so the largest k
        for found in images_of(config).values():
            size = resized(*found.size, side, config.protocol.non_square.value)
            each = len(tile_corners(size, side, config.protocol.tile_stride))
            total += each * (found.test + min(drawn, found.train))
    return total


def measure(config: Config, scales: Sequence[int]) -> tuple[Cost, int]:
    """The cost of one tile on the device that a run would take, and the side of a tile."""
    keep_freed_memory()
    cuda = config.runtime.device is not Device.cpu and torch.cuda.is_available()
    fp32 = config.runtime.precision is Precision.fp32
    tower, side, _ = build(
        config.backbone.architecture, "cuda" if cuda else "cpu", torch.float32 if fp32 else torch.bfloat16
    )
    pixels = torch.randn(config.runtime.batch_size or (16 if cuda else 1), 3, side, side)
    pixels = pixels.cuda() if cuda else pixels
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        features = encode(tower, pixels, scales).to("cpu")
        seconds.append(time.perf_counter() - start)
    values = sum(part.numel() for part in (features.image, features.patches, *features.windows.values()))
    size = values * (4 if fp32 else 2) // len(pixels)
    return Cost(min(seconds) / len(pixels), size, high_water_mark() + COMPARISONS), side


def missing_data(planned: Sequence[Config]) -> dict[Path, tuple[str, int, int]]:
    """Datasets that are not there: folder -> (name, bytes to download, bytes on disk while they are unpacked)."""
    found = {}
    for config in planned:
        layout, root = config.dataset.layout.value, config.dataset.root
        if layout in source_names() and root and not Path(root).exists():
            source = read_source(layout)
            found[Path(root)] = (source.title, source.size, source.size + source.max_bytes)
    return found


def free_space(folder: Path) -> int:
    """Bytes free on the disk that a folder is on or will be on."""
    return shutil.disk_usage(next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())).free


def clock(seconds: float) -> str:
    """
    >>> clock(20), clock(300), clock(9000)
    ('20 s', '5 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def report(planned: Sequence[Config], experiments: int) -> Iterator[str]:
    """The estimate, a line each."""
    scales = sorted({side for config in planned for side in config.scales})
    cost, side = measure(planned[0], scales)
    encoded = tiles(planned, side)
    scored = sum(found.test for config in planned for found in images_of(config).values())
    encoding, scoring = encoded * cost.seconds, scored * SCORING
    cache_dir = Path(planned[0].runtime.cache_dir)
    missing = missing_data(planned)
    yield f"runs     {len(planned)} of {experiments} experiments"
    yield f"time     about {clock(encoding + scoring)}: {clock(encoding)} to encode {encoded:,} tiles once, at " + (
        f"{cost.seconds:.3g} s each, and {clock(scoring)} to score and measure"
    )
    yield f"memory   about {cost.memory / 1024:.1f} GB"
    needs = {cache_dir: ("of features", encoded * cost.bytes)}
    for root, (title, download, unpacked) in missing.items():
        yield f"network  {download / 1e9:.1f} GB: {title}"
        needs[root] = (f"while {title} is unpacked", unpacked)
    for folder, (what, size) in needs.items():
        free = free_space(folder)
        yield f"disk     {size / 1e9:.1f} GB {what}, {free / 1e9:.0f} GB free: {folder}"
        if free < size:
            yield f"warning: the disk of {folder} is too small for that"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python scripts/estimate.py", description=__doc__)
    parser.add_argument("words", nargs="+", metavar="EXPERIMENT | setting=value", help="as for run.py")
    words = parser.parse_args(arguments).words
    experiments = [word for word in words if "=" not in word]
    logging.basicConfig(level=logging.ERROR)
    try:
        planned = [job for name in experiments for job in jobs(name, [word for word in words if "=" in word])]
        if not planned:
            raise InputError("no experiment is named")
        for line in report(planned, len(experiments)):
            print(printable(line))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
