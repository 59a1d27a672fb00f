"""Several processes with the same sweep over one store and one results folder: how much sooner they are done.

    python benchmarks/workers.py                                               1, 2 and 4 processes, the demo data
    python benchmarks/workers.py --processes 1,8 "dataset.categories=[tile,wood]" k_shot=0,1,2

Prints a markdown table. Each process has one thread and is started as a command, so that its seconds of starting count;
warm is the same again without results. Images are duplicated that more than one process has encoded. Ratios count, not
seconds: all rows are measured one after the other on the same machine.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from winclip_bench.data.demo import write_demo

COMMAND = "from winclip_bench.cli import command; command()"


def race(count: int, words: Sequence[str]) -> tuple[float, list[int]]:
    """Seconds until the last of `count` processes with the same command has ended, and the images that each encoded.

    Raises RuntimeError with what a process said that failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COMMAND, *words]
    with ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(count)]
        start = time.perf_counter()
        processes = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment) for file in errors
        ]
        for process in processes:
            process.wait()
        seconds = time.perf_counter() - start
        said = [(file.seek(0), file.read())[1] for file in errors]
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            raise RuntimeError(text)
    return seconds, [sum(map(int, re.findall(r"(\d+) images encoded", text))) for text in said]


def rows(counts: Sequence[int], sweep: Sequence[str], data: Path, scratch: Path) -> list[str]:
    """The table; one process comes first, which the others are compared with."""
    lines = [
        "| processes | store | seconds | ratio to one | images encoded | of them duplicated |",
        "|---|---|---|---|---|---|",
    ]
    alone: dict[str, tuple[float, int]] = {}
    for count in counts:
        results, store = scratch / "results", scratch / f"store-{count}"
        words = ["-m", "dataset=folder", f"dataset.root={data}", "dataset.name=demo", f"results_dir={results}"]
        words += [f"runtime.cache_dir={store}", *sweep]
        for state in ("cold", "warm"):
            seconds, encoded = race(count, words)
            shutil.rmtree(results)
            base, needed = alone.setdefault(state, (seconds, sum(encoded)))
            ratio, duplicated = seconds / base, sum(encoded) - needed
            lines.append(f"| {count} | {state} | {seconds:.1f} | {ratio:.2f}× | {sum(encoded)} | {duplicated} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of several processes with one sweep")
    parser.add_argument("--processes", default="1,2,4", metavar="N,…", help="after one, which is always measured")
    parser.add_argument("sweep", nargs="*", default=["k_shot=0,1,2,4"], help="as for run.py -m; now k_shot=0,1,2,4")
    arguments = parser.parse_args()
    counts = sorted({1, *map(int, arguments.processes.split(","))})
    with tempfile.TemporaryDirectory() as scratch:
        table = rows(counts, [*arguments.sweep, "backbone=demo"], write_demo(Path(scratch)), Path(scratch))
    print(f"The sweep {' '.join(arguments.sweep)}, {os.cpu_count()} cores, one thread for each process\n")
    print(*table, sep="\n")


if __name__ == "__main__":
    main()
