"""Predicting on one's own images: what the first image costs, and every further one; markdown on standard output.

python benchmarks/predict.py                                 # the embedded model, 4 references
python benchmarks/predict.py --backbone vit_b_16_plus_240 --pretrained checkpoint.pt
"""

import argparse
import ctypes
import statistics
import time
from pathlib import Path

import torch

from winclip_bench.clip.__main__ import high_water_mark
from winclip_bench.data.demo import make_sample
from winclip_bench.estimator import WinCLIP


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of predicting")
    parser.add_argument("--backbone", default="demo")
    parser.add_argument("--pretrained")
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--images", type=int, default=8)
    arguments = parser.parse_args()

    normal = [make_sample("tile", "good", "train", index)[0] for index in range(arguments.references)]
    images = [make_sample("tile", "good", "test", index)[0] for index in range(arguments.images)]
    start = time.perf_counter()
    model = WinCLIP(arguments.backbone, pretrained=arguments.pretrained).fit(normal, class_name="tile")
    fitting = time.perf_counter() - start
    model.predict(images[:1])
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # loading has set a higher mark; begin anew
    before, seconds = high_water_mark(), []
    for image in images:
        start = time.perf_counter()
        model.predict([image])
        seconds.append(time.perf_counter() - start)
    print(f"{arguments.backbone}, {arguments.references} references, {torch.get_num_threads()} threads\n")
    print("| loading and fitting, s | warm, ms per image (median) | extra MiB |")
    print("|---|---|---|")
    print(f"| {fitting:.2f} | {1000 * statistics.median(seconds):.1f} | {high_water_mark() - before:.0f} |")


if __name__ == "__main__":
    main()
