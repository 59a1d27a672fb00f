"""The encoder against what the known implementations do, side by side in one process; markdown on standard output.

    python benchmarks/encoder.py                          # ViT-B-16-plus-240, random weights, one thread
    python benchmarks/encoder.py --threads 2 --architecture ViT-L-14

The baseline gathers the windows of one scale after the other and runs open_clip's own transformer on them, then on the
whole image. It runs in a process of its own, with the C library's allocator as it comes, because that is how those
implementations run; the harness sets its allocator. Seconds are of the process's own processors for one thread (the
machine may be shared) and of the wall clock for more or on a GPU; each contender's best of several turns counts, turns
alternate, and what is compared are ratios. The ceiling is one large matrix product in the same dtype, measured in the
same turns.
"""

import argparse
import ctypes
import gc
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from winclip_bench.clip.__main__ import high_water_mark
from winclip_bench.clip.allocator import keep_freed_memory
from winclip_bench.clip.cost import flops
from winclip_bench.clip.encoder import encode
from winclip_bench.clip.towers import take_apart
from winclip_bench.clip.windows import window_patches

SCALES = (2, 3)


@torch.inference_mode()
def baseline(visual: Any, grid: int, pixels: Tensor) -> None:
    """What Accurate-WinCLIP and anomalib compute: one transformer pass per scale, and one for the whole image."""
    tokens = visual._embeds(pixels)
    whole = visual.transformer(tokens)
    F.normalize(visual.ln_post(whole[:, 0]) @ visual.proj, dim=-1)
    for side in SCALES:
        patches = window_patches(grid, side).to(pixels.device) + 1
        classes = tokens[:, :1, None].expand(-1, len(patches), -1, -1)
        sequences = torch.cat([classes, tokens[:, patches]], 2).flatten(0, 1)
        F.normalize(visual.ln_post(visual.transformer(sequences)[:, 0]) @ visual.proj, dim=-1)


def timed(run: Callable[[], object], device: torch.device, threads: int) -> float:
    """Seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if threads == 1 and device.type == "cpu" else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def ceiling(dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], object], float]:
    """A matrix product of the shape that most of the work has, and its operations."""
    x, weight = torch.randn(2896, 896, device=device, dtype=dtype), torch.randn(3584, 896, device=device, dtype=dtype)
    out = torch.empty(2896, 3584, device=device, dtype=dtype)
    return lambda: torch.mm(x, weight.T, out=out), 2.0 * 2896 * 896 * 3584


class Peer:
    """The baseline in another process, which encodes and waits in turn."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, __file__, *arguments, "--peer"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __call__(self) -> float:
        """Seconds of one call."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        return float(self.process.stdout.readline())

    @staticmethod
    def serve(run: Callable[[], object], device: torch.device, threads: int) -> None:
        """In the other process: a call for each line of standard input."""
        for _ in sys.stdin:
            print(timed(run, device, threads), flush=True)


def peak(arguments: list[str]) -> float:
    """Peak memory of a child process that does nothing else, MiB."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def child(architecture: str, contender: str, batch: int) -> None:
    """Print the MiB by which one encoding raises the peak memory of this process."""
    visual, pixels = prepare(architecture, batch, torch.device("cpu"))
    dtype = torch.bfloat16 if contender == "bf16" else torch.float32
    tower = take_apart(visual, architecture, dtype)
    ceiling(dtype, pixels.device)[0]()  # the libraries' own code and buffers are nobody's merit
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading has left must not be had for nothing
    Path("/proc/self/clear_refs").write_text("5")  # loading has set a higher mark; begin anew
    before = high_water_mark()
    if contender == "baseline":
        baseline(visual, tower.grid, pixels)
    else:
        encode_in_turn(tower, pixels)
    print(high_water_mark() - before)


def encode_in_turn(tower: Any, pixels: Tensor) -> None:
    """As the harness does on a CPU: one image at a time."""
    for image in pixels.split(1):
        encode(tower, image, SCALES)


def prepare(architecture: str, batch: int, device: torch.device) -> tuple[Any, Tensor]:
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    model = open_clip.create_model(architecture, pretrained=None).eval().requires_grad_(False).to(device)
    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return model.visual, torch.randn(batch, 3, side, side, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="ViT-B-16-plus-240")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1, help="images at once on a GPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, metavar=("CONTENDER", "BATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if not arguments.peer and not arguments.child:
        keep_freed_memory()
    if arguments.child:
        child(arguments.architecture, arguments.child[0], int(arguments.child[1]))
        return

    visual, pixels = prepare(arguments.architecture, arguments.batch, device)
    if arguments.peer:
        grid = take_apart(visual, arguments.architecture).grid
        Peer.serve(lambda: baseline(visual, grid, pixels), device, arguments.threads)
        return
    common = ["--architecture", arguments.architecture, "--threads", str(arguments.threads)]
    peer = Peer([*common, "--batch", str(arguments.batch), "--device", arguments.device])
    towers = {"fp32": take_apart(visual, arguments.architecture)}
    towers["bf16"] = take_apart(visual, arguments.architecture, torch.bfloat16)
    products = {"fp32": ceiling(torch.float32, device), "bf16": ceiling(torch.bfloat16, device)}
    contenders: dict[str, Callable[[], object]] = {
        **{name: partial(encode, tower, pixels, SCALES) for name, tower in towers.items()},
        **{f"product {name}": product for name, (product, _) in products.items()},
    }
    best = dict.fromkeys(["baseline", *contenders], float("inf"))
    for _ in range(arguments.turns):
        best["baseline"] = min(best["baseline"], peer())
        for name, run in contenders.items():
            best[name] = min(
                best[name], *(timed(run, device, arguments.threads) for _ in range(10 if "product" in name else 1))
            )

    memory = {}
    if device.type == "cpu":
        for name in ("baseline", "fp32", "bf16"):
            memory[name] = peak([*common, "--child", name, "8"])
    print(f"{arguments.architecture}, {arguments.threads} threads, {device}, batch {arguments.batch}\n")
    print("| encoder | s per image | against the baseline | GFLOP | share of the ceiling | MiB more at batch 8 |")
    print("|---|---|---|---|---|---|")
    for name in ("baseline", "fp32", "bf16"):
        work = flops(towers["fp32"], SCALES, shared=name != "baseline")
        product, operations = "product bf16" if name == "bf16" else "product fp32", products["fp32"][1]
        share = work / (best[name] / arguments.batch) / (operations / best[product])
        extra = f"{memory[name]:.0f} ({memory['baseline'] / memory[name]:.1f}×)" if memory else "–"
        print(
            f"| {name} | {best[name] / arguments.batch:.3f} | {best['baseline'] / best[name]:.2f}× | {work / 1e9:.0f} "
            f"| {share:.0%} of {operations / best[product] / 1e9:.0f} GFLOP/s | {extra} |"
        )


if __name__ == "__main__":
    main()
