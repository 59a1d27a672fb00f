"""What each backbone of conf/backbone costs: `python -m winclip_bench.clip`, markdown on standard output.

Sizes are counted; time and memory per image are measured here, on random weights, each in a process of its own.
"""

import argparse
import logging
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import open_clip
import torch
import yaml

from winclip_bench.clip.allocator import keep_freed_memory
from winclip_bench.clip.cost import flops, sequence_lengths
from winclip_bench.clip.encoder import encode
from winclip_bench.clip.towers import Tower, take_apart
from winclip_bench.errors import InputError

SCALES = [2, 3]


def backbones() -> dict[str, str]:
    """Name -> architecture of everything in conf/backbone."""
    folder = resources.files("winclip_bench.conf") / "backbone"
    found = (yaml.safe_load(file.read_text()) for file in folder.iterdir() if file.name.endswith(".yaml"))
    return {str(content["name"]): str(content["architecture"]) for content in found}


def build(architecture: str, device: str, dtype: torch.dtype) -> tuple[Tower, int, int]:
    """A tower of random weights (none at all on `meta`), its image size and the parameters of the whole model."""
    from winclip_bench.clip import backbone  # noqa: F401, PLC0415  (makes our own architectures known)

    logging.disable(logging.WARNING)
    model = open_clip.create_model(architecture, pretrained=None, device=device).eval().requires_grad_(False)
    size = model.visual.image_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return take_apart(model.visual, architecture, dtype), size if isinstance(size, int) else size[0], parameters


def high_water_mark() -> float:
    """Peak resident memory of this process, MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def measure(architecture: str, dtype: torch.dtype) -> tuple[float, float]:
    """Milliseconds to encode one image, and the MiB by which doing so raises the memory of this process."""
    keep_freed_memory()
    tower, size, _ = build(architecture, "cpu", dtype)
    pixels = torch.randn(1, 3, size, size)
    Path("/proc/self/clear_refs").write_text("5")  # loading has set a higher mark; begin anew
    before = high_water_mark()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        encode(tower, pixels, SCALES)
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds), high_water_mark() - before


def row(name: str, architecture: str, precision: str, counted_only: bool) -> str:
    """One line of the table."""
    tower, size, parameters = build(architecture, "cpu", torch.float32)
    lengths = sequence_lengths(tower.grid, SCALES, tower.prefix)
    cells = [
        name,
        f"{size}",
        f"{tower.grid}×{tower.grid}",
        f"{sum(count * length for count, length in lengths)}",
        f"{flops(tower, SCALES) / 1e9:.0f}",
        f"{parameters / 1e6:.0f}",
    ]
    if not counted_only:
        command = [sys.executable, "-m", "winclip_bench.clip", "--measure", architecture, "--precision", precision]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        cells += done.stdout.split() if done.returncode == 0 else ["–", "–"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m winclip_bench.clip", description=__doc__)
    parser.add_argument("names", nargs="*", help="backbones of conf/backbone; all of them by default")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--count", action="store_true", help="count only, measure nothing")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        dtype = torch.float32 if arguments.precision == "fp32" else torch.bfloat16
        print("{:.0f} {:.0f}".format(*measure(arguments.measure, dtype)))
        return
    known = backbones()
    unknown = sorted(set(arguments.names) - known.keys())
    if unknown:
        parser.error(f"no backbone is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    measured = [] if arguments.count else ["ms", "MiB"]
    columns = ["backbone", "pixels", "grid", "tokens", "GFLOP", "M parameters", *measured]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in arguments.names or sorted(known):
        try:
            print(row(name, known[name], arguments.precision, arguments.count), flush=True)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
