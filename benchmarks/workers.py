"""Several processes with one sweep over one store and one results folder: how much sooner they are done.

    python benchmarks/workers.py                                               1, 2 and 4 processes, the demo data
    python benchmarks/workers.py --processes 1,8 k_shot=0,1,2

Prints a markdown table. The processes are either given the same command, all of them, or each its share of the
categories, as `split_categories=true` does. Each has one thread and is started as a command, so that its seconds of
starting count; warm is the same again without results. Images are duplicated that more than one process has encoded.
Ratios count, not seconds: all rows are measured one after the other on the same machine.
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


def race(commands: Sequence[Sequence[str]]) -> tuple[float, list[int]]:
    """Seconds until the last of these commands has ended, begun at once, and the images that each encoded.

    Raises RuntimeError with what a process said that failed.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-c", COMMAND]
    with ExitStack() as files:
        errors = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        start = time.perf_counter()
        processes = [
            subprocess.Popen([*python, *words], stdout=subprocess.DEVNULL, stderr=file, env=environment)
            for words, file in zip(commands, errors, strict=True)
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
        "| processes | given | store | seconds | ratio to one | images encoded | of them duplicated |",
        "|---|---|---|---|---|---|---|",
    ]
    categories = sorted(path.name for path in data.iterdir() if path.is_dir())
    alone: dict[str, tuple[float, int]] = {}
    for count, given in [(count, given) for count in counts for given in ("the same", "their share")]:
        if count == 1 and given != "the same":
            continue
        results, store = scratch / "results", scratch / f"store-{count}-{given[-4:]}"
        words = ["-m", "dataset=folder", f"dataset.root={data}", "dataset.name=demo", f"results_dir={results}"]
        words += [f"runtime.cache_dir={store}", *sweep]
        shares = [f"dataset.categories=[{','.join(categories[number::count])}]" for number in range(count)]
        commands = [[*words, share] if given == "their share" else words for share in shares]
        for state in ("cold", "warm"):
            seconds, encoded = race(commands)
            shutil.rmtree(results)
            base, needed = alone.setdefault(state, (seconds, sum(encoded)))
            ratio, duplicated = seconds / base, sum(encoded) - needed
            cells = [str(count), given, state, f"{seconds:.1f}", f"{ratio:.2f}×", str(sum(encoded)), str(duplicated)]
            lines.append(f"| {' | '.join(cells)} |")
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
