"""What a few-shot sweep costs with the feature store, and how that grows.

    python benchmarks/sweep.py                                       the demo data and the demo backbone
    python benchmarks/sweep.py --root parts/metal_plate --architecture ViT-B-16-plus-240 --pretrained untrained

Prints three markdown tables. Ratios count, not seconds: everything is measured in this one process. What is called
extrapolated has been encoded once, for so many images as the table says, and multiplied. Memory is the growth of the
process beyond what it held before, the model and the imports; pages of memory-mapped files count (Linux only).
"""

import argparse
import ctypes
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import hydra
import torch

from winclip_bench import config as configuration
from winclip_bench import records
from winclip_bench.clip.backbone import Backbone, Weights, find_weights, load_backbone
from winclip_bench.comparisons import Comparisons
from winclip_bench.config import Config
from winclip_bench.data import Category, Digests, content_digests, open_dataset
from winclip_bench.data.demo import write_demo
from winclip_bench.encoding import Encoder, ImageFile, Preprocessing
from winclip_bench.errors import InputError
from winclip_bench.evaluation import evaluate
from winclip_bench.pipelines.shared import Evaluation, choose_references
from winclip_bench.pipelines.winclip import encode_text

SHOTS, SEEDS = (0, 1, 2, 4, 8), 5
REPEATS = 5  # of what takes milliseconds; the fastest counts

Draw = tuple[int, int]  # k and seed


@dataclass(frozen=True)
class Run:
    """Seconds of one run: of scoring, and of everything with metrics and record."""

    scoring: float
    whole: float


@dataclass(frozen=True)
class Case:
    """A sweep: so many test images, k at so many seeds, window sides."""

    images: int
    k: int = 2
    seeds: int = 2
    scales: tuple[int, ...] = (2,)


@dataclass
class Usage:
    """Of a part of this program: seconds on the clock, and MiB of memory at its peak beyond what was held before."""

    seconds: float = 0.0
    mib: float = 0.0


class Bench:
    """One category, one backbone; every method measures from a store as it finds it, as a new process would."""

    def __init__(self, config: Config, root: Path, category: str | None) -> None:
        names = None if category is None else [category]
        self.dataset = open_dataset("folder", root, "benchmark", names)
        self.category: Category = self.dataset.categories[0]
        self.config = config
        self.digests: Digests = content_digests(self.dataset, None)
        backbone = config.backbone
        self.weights: Weights = find_weights(backbone.architecture, backbone.pretrained, backbone.init_seed)
        self.backbone: Backbone = load_backbone(self.weights, dtype=torch.float32 if self.fp32 else torch.bfloat16)

    @property
    def fp32(self) -> bool:
        return self.config.runtime.precision.value == "fp32"

    def evaluation(self, cache: Path | None, scales: Sequence[int] | None = None) -> Evaluation:
        """A run of its own over a store; None for no store."""
        protocol = self.config.protocol
        how = Preprocessing(protocol.non_square.value, protocol.tile_stride, protocol.resize.value)
        encoder = Encoder(lambda: self.backbone, self.weights, how, self.config.runtime.precision.value, cache)
        return Evaluation(
            config=replace(self.config, scales=list(scales or self.config.scales)),
            run_id="0" * 12,
            dataset=self.dataset.name,
            digests=self.digests,
            class_names={self.category.name: self.category.name.replace("_", " ")},
            encoder=encoder,
            comparisons=Comparisons(encoder),
            provenance={},
        )

    def images(self, category: Category, draws: Sequence[Draw]) -> list[ImageFile]:
        """The test images and every reference that is drawn."""
        run = self.evaluation(None)
        references = {
            reference.image: ImageFile(reference.image, reference.sha256)
            for draw in draws
            for reference in choose_references(at(run, draw), category)
        }
        return [ImageFile(sample.image, self.digests.files[sample.image]) for sample in category.test] + [
            *references.values()
        ]

    def encode(self, images: Sequence[ImageFile], cache: Path | None, scales: Sequence[int] | None = None) -> Usage:
        """Encode images, and keep them where there is a store."""
        run = self.evaluation(cache, scales)
        runtime = self.config.runtime
        with measured() as usage:
            run.encoder.images(images, run.config.scales, batch_size=runtime.batch_size, workers=runtime.workers)
        return usage

    def encode_text(self, cache: Path | None) -> float:
        """Seconds for the text prototypes."""
        run = self.evaluation(cache)
        with measured() as usage:
            encode_text(run.encoder, run.class_names[self.category.name], run.config)
        return usage.seconds

    def sweep(
        self, category: Category, draws: Sequence[Draw], run: Evaluation, results: Path
    ) -> tuple[list[Run], Usage]:
        """Evaluate and record all draws, of which nothing may have to be encoded."""
        runs = []
        with measured() as usage:
            for draw in draws:
                start = time.perf_counter()
                result = evaluate(at(run, draw), category)
                records.write(results, result.record, result.scores, result.maps)
                runs.append(Run(result.record.timing["score"], time.perf_counter() - start))
                assert result.encoded == 0
        return runs, usage


def at(run: Evaluation, draw: Draw) -> Evaluation:
    """The same run with another k and seed."""
    return replace(run, config=replace(run.config, k_shot=draw[0], seed=draw[1]))


@contextmanager
def measured() -> Iterator[Usage]:
    """Fills in what the block has used."""
    usage = Usage()
    before, start = peak_mib(restart=True), time.perf_counter()
    yield usage
    usage.seconds, usage.mib = time.perf_counter() - start, peak_mib() - before


def peak_mib(restart: bool = False) -> float:
    """The most memory this process has held since the last restart of the count; nan where that is not known."""
    try:
        if restart:
            ctypes.CDLL(None).malloc_trim(0)  # else what earlier parts have freed would not count for this one
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().splitlines()
    except (OSError, AttributeError):
        return float("nan")
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024


def size_on_disk(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sweep_tables(bench: Bench, encode_again: int, scratch: Path) -> list[str]:
    """The sweep from a warm store against encoding for every run, and the cost of one more run."""
    category, cache, results = bench.category, scratch / "cache", scratch / "results"
    draws = [(k, seed) for k in SHOTS for seed in range(SEEDS if k else 1)]  # no seed changes a zero-shot run
    images = bench.images(category, draws)
    cold = bench.encode(images, cache)
    bench.encode_text(cache)
    run = bench.evaluation(cache)
    first, warm = bench.sweep(category, draws, run, results)
    known, _ = bench.sweep(category, draws, run, results)

    some = images[:encode_again]
    again, text = bench.encode(some, None), bench.encode_text(None)
    per_image = again.seconds / len(some)
    encodings = sum(len(category.test) + k for k, _ in draws)
    without_store = encodings * per_image + len(draws) * text + sum(each.whole for each in known)

    count = len(category.test)
    zero, few = [known[0]], known[1:]
    return [
        f"{category.name}: {count} test images, k = {', '.join(map(str, SHOTS))} × {SEEDS} seeds, which are "
        f"{len(draws)} different runs (k = 0 has no seed), each with metrics and record; no process or model is "
        "started.",
        "",
        "| sweep | seconds | images encoded | extra MiB | ratio |",
        "|---|---|---|---|---|",
        f"| warm store | {warm.seconds:.2f} | 0 | {warm.mib:.0f} | 1 |",
        f"| cold store: encoding {cold.seconds:.1f} s, then the same | {cold.seconds + warm.seconds:.1f} "
        f"| {len(images)} | {cold.mib:.0f} | {(cold.seconds + warm.seconds) / warm.seconds:.0f}× |",
        f"| encoding again for every run, extrapolated from {len(some)} images ({1000 * per_image:.0f} ms each) and "
        f"one class's prompts ({text:.1f} s) | {without_store:.0f} | {encodings} | {again.mib:.0f} "
        f"| {without_store / warm.seconds:.0f}× |",
        "",
        f"The store holds {size_on_disk(cache) / 1e6:.1f} MB, "
        f"{size_on_disk(cache) / 1e6 / len(images):.2f} MB per image.",
        "",
        "| one more run, warm, ms per test image | scoring | with metrics and record |",
        "|---|---|---|",
        per_test_image("k = 0", zero, count),
        per_test_image(f"k = {SHOTS[1]} to {SHOTS[-1]}, references compared when first drawn", first[1:], count),
        per_test_image("the same, all references known", few, count),
        "",
    ]


def per_test_image(what: str, runs: Sequence[Run], count: int) -> str:
    """A row: the mean over runs."""
    scoring, whole = (
        1000 * statistics.mean(getattr(run, part) for run in runs) / count for part in ("scoring", "whole")
    )
    return f"| {what} (mean of {len(runs)}) | {scoring:.3f} | {whole:.3f} |"


def growth_table(bench: Bench, images: int, scratch: Path) -> list[str]:
    """What doubling images, k, seeds and scales does, each from the same beginning."""
    base = Case(images)
    cases = {
        "beginning": base,
        "images doubled": replace(base, images=2 * images),
        "k doubled": replace(base, k=2 * base.k),
        "seeds doubled": replace(base, seeds=2 * base.seeds),
        "scales doubled": replace(base, scales=(2, 3)),
    }
    rows = [
        f"From {images} test images, k = {base.k}, {base.seeds} seeds and scale 2; scoring is of all seeds' "
        f"runs together, from a warm store, the fastest of {REPEATS}.",
        "",
        "| | images encoded | encoding, s | scoring, s | MB on disk |",
        "|---|---|---|---|---|",
    ]
    beginning: list[float] = []
    for number, (name, case) in enumerate(cases.items()):
        costs = grown(bench, case, scratch / str(number))
        beginning = beginning or costs
        cells = [
            f"{cost:.{digits}f} ({cost / first:.2f}×)"
            for cost, first, digits in zip(costs, beginning, (0, 2, 4, 2), strict=True)
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def grown(bench: Bench, case: Case, scratch: Path) -> list[float]:
    """Images encoded, seconds of encoding, seconds of scoring, MB on disk."""
    test, count = bench.category.test, case.images
    if count > len(test):
        raise InputError(f"{bench.category.name} has {len(test)} test images; choose --growth of at most half of that")
    chosen = tuple(test[index * len(test) // count] for index in range(count))  # normal and anomalous ones
    category = replace(bench.category, test=chosen)
    draws = [(case.k, seed) for seed in range(case.seeds)]
    files = bench.images(category, draws)
    usage = bench.encode(files, scratch / "cache", case.scales)
    size = size_on_disk(scratch / "cache")
    bench.encode_text(scratch / "cache")
    scoring = [
        sum(run.scoring for run in runs)
        for _ in range(REPEATS)
        for runs, _ in [bench.sweep(category, draws, bench.evaluation(scratch / "cache", case.scales), scratch)]
    ]
    return [len(files), usage.seconds, min(scoring), size / 1e6]


def compose(arguments: argparse.Namespace) -> Config:
    """The configuration of a run with the default protocol and prompts."""
    configuration.register()
    overrides = [f"runtime.precision={arguments.precision}", f"runtime.batch_size={arguments.batch_size}"]
    if arguments.architecture is not None:
        overrides += [
            f"backbone.architecture={arguments.architecture}",
            f"backbone.pretrained='{arguments.pretrained}'",
        ]
    with hydra.initialize_config_module("winclip_bench.conf", version_base="1.3"):
        return configuration.resolve(hydra.compose("config", overrides))


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark of sweeps from the feature store")
    parser.add_argument("--root", type=Path, help="a category folder, or a folder of them; the demo data if not given")
    parser.add_argument("--category", help="one of them; the first if not given")
    parser.add_argument("--architecture", help="the demo backbone if not given")
    parser.add_argument("--pretrained", help="its weights: a tag, a checkpoint file or untrained")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--encode", type=int, default=8, help="images to encode for extrapolation")
    parser.add_argument("--growth", type=int, default=12, help="test images of the table of growth; 0 leaves it out")
    arguments = parser.parse_args()
    if (arguments.architecture is None) != (arguments.pretrained is None):
        parser.error("--architecture and --pretrained go together")
    try:
        config = compose(arguments)
        bench = Bench(config, arguments.root or write_demo(Path(config.runtime.cache_dir)), arguments.category)
        print(
            f"{config.backbone.architecture}, {arguments.precision}, batches of {arguments.batch_size}; "
            f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}\n"
        )
        with tempfile.TemporaryDirectory() as scratch:
            print(*sweep_tables(bench, max(arguments.encode, 1), Path(scratch) / "sweep"), sep="\n", flush=True)
            if arguments.growth:
                print(*growth_table(bench, arguments.growth, Path(scratch) / "growth"), sep="\n", flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
