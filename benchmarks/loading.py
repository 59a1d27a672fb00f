"""Whether reading images holds the encoder up.

    python benchmarks/loading.py                                   the demo data and the demo backbone
    python benchmarks/loading.py --root parts/metal_plate --architecture ViT-B-16-plus-240 --pretrained untrained

Prints a markdown table: how many images a second are read (decoded, resized, cut into tiles) on their own and encoded
on their own, and, with both at once as in a run, which share of the time the encoder waits for the next image. The
files are read once before, so that they come from memory; a slow disk comes on top.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone
from winclip_bench.clip.tiles import Tiles, cut
from winclip_bench.data import open_dataset, prefetch, read_image
from winclip_bench.data.demo import write_demo
from winclip_bench.errors import InputError

SCALES = [2, 3]
DEMO = ("winclip-bench-demo", "shipped")


class Bench:
    """Some images, and a backbone for them."""

    def __init__(self, paths: Sequence[Path], backbone: Backbone) -> None:
        self.paths = paths
        self.backbone = backbone

    def load(self, path: Path) -> Tiles:
        """What a run does with an image before it is encoded."""
        backbone = self.backbone
        return cut(
            read_image(path), backbone.image_size, backbone.mean, backbone.std,
            non_square="tile", stride=1.0, resize="pil",
        )  # fmt: skip

    def reading(self, workers: int) -> float:
        """Images a second."""
        start = time.perf_counter()
        for _ in prefetch(self.paths, self.load, workers=workers):
            pass
        return len(self.paths) / (time.perf_counter() - start)

    def encoding(self) -> float:
        """Images a second."""
        loaded = [self.load(path).pixels for path in self.paths]
        start = time.perf_counter()
        for pixels in loaded:
            self.encode(pixels)
        return len(loaded) / (time.perf_counter() - start)

    def waiting(self, workers: int) -> float:
        """Share of the time of a run's loop in which the encoder waits for an image, the first one included."""
        waited, start = 0.0, time.perf_counter()
        asked = start
        for tiles in prefetch(self.paths, self.load, workers=workers):
            waited += time.perf_counter() - asked
            self.encode(tiles.pixels)
            asked = time.perf_counter()
        return waited / (time.perf_counter() - start)

    def encode(self, pixels: torch.Tensor) -> None:
        """Encode an image's tiles and wait until that is done."""
        self.backbone.encode_images(pixels, SCALES).to("cpu")


def table(bench: Bench, workers: Sequence[int]) -> list[str]:
    """The table as lines of markdown."""
    bench.reading(1)
    bench.encode(bench.load(bench.paths[0]).pixels)  # prepared weights and allocated memory
    encoded = bench.encoding()
    lines = ["| workers | read, images/s | encoded, images/s | read / encoded | waiting |", "|--:|--:|--:|--:|--:|"]
    for number in workers:
        read = bench.reading(number)
        share = bench.waiting(number)
        lines.append(f"| {number} | {read:.1f} | {encoded:.2f} | {read / encoded:.0f} | {share:.1%} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark of reading against encoding")
    parser.add_argument("--root", type=Path, help="a category folder, or a folder of them; the demo data if not given")
    parser.add_argument("--architecture", default=DEMO[0])
    parser.add_argument("--pretrained", default=DEMO[1], help="a tag, a checkpoint file or untrained")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if arguments.precision == "fp32" else torch.bfloat16
    try:
        with tempfile.TemporaryDirectory() as scratch:
            dataset = open_dataset("folder", arguments.root or write_demo(Path(scratch)), "benchmark")
            paths = [sample.image for category in dataset.categories for sample in category.test]
            backbone = load_backbone(find_weights(arguments.architecture, arguments.pretrained), device, dtype)
            print(
                f"{arguments.architecture}, {arguments.precision} on {device.type}; {torch.get_num_threads()} threads "
                f"on {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}\n"
            )
            print(*table(Bench(paths[: max(arguments.images, 1)], backbone), arguments.workers), sep="\n")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
