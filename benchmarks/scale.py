"""What a sweep and its results cost as they grow: seconds, bytes and files for each job and each category of a run.

    python benchmarks/scale.py                            100, 400 and 1,600 runs of two categories
    python benchmarks/scale.py --runs 50,200

Two runs on the demo data are real; the others are their files under other names, so that readers have as much to do.
Prints markdown tables; docs/scale.md reckons with their last columns. Ratios count, not seconds.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
from tabulate import tabulate

from winclip_bench import cli, records, runner, status
from winclip_bench.claims.__main__ import main as claims_main
from winclip_bench.features.shards import Item, Shards
from winclip_bench.jobs import Asked, AskedSweep, write_sweep
from winclip_bench.report.shared import write_shared

CATEGORIES = ("tile", "wood")
DRAWS = 25  # runs that differ in nothing but their references


def command(*words: str) -> None:
    """Run `winclip-bench` with these arguments in this process; raises RuntimeError where it fails."""
    with mock.patch.object(sys, "argv", ["winclip-bench", *words]), silence():
        code = cli.main()
    if code:
        raise RuntimeError(f"exit code {code} of {' '.join(words)}")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def seconds(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    with silence():
        do()
    return time.perf_counter() - begun


def planned(jobs: int) -> float:
    """Seconds to compose and write down a sweep of so many jobs, none of which is run."""
    words = ["-m", "dataset=mvtec,visa", "k_shot=0,1,2,4", f"seed={','.join(map(str, range(jobs // 8)))}"]
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(runner, "run", return_value=0):
        return seconds(lambda: command(*words, f"results_dir={folder}"))


def multiply(results: Path, runs: int) -> None:
    """Put so many copies of the runs in a results folder in their place, as of ever more prompt sets and 25 draws of
    each; their jobs are one sweep."""
    folders = sorted((results / "records" / "demo").iterdir())
    jobs = sorted((results / "jobs").iterdir())
    asked = []
    for number in range(runs):
        source, run_id = folders[number % 2], f"{number:012x}"
        target = source.with_name(run_id)
        shutil.copytree(source, target)
        for path in target.glob("*.json"):
            content = json.loads(path.read_bytes())
            content["run_id"] = run_id
            content["config"]["seed"] = number % DRAWS
            content["config"]["prompts"]["name"] = f"set {number // DRAWS}"
            path.write_text(json.dumps(content))
        shutil.copytree(results / "pictures" / source.name, results / "pictures" / run_id)
        job = json.loads(jobs[number % 2].read_bytes()) | {"run_id": run_id}
        (results / "jobs" / f"{run_id}.json").write_text(json.dumps(job))
        asked.append(Asked(run_id, (f"seed={number}",)))
    for folder in folders:
        shutil.rmtree(folder)
    write_sweep(results, AskedSweep("python run.py -m …", "/", tuple(asked)))


def grown(results: Path, counts: Sequence[int]) -> list[list[str]]:
    """A row for each reader, with seconds at each size, and milliseconds for each category of the largest."""
    readers: dict[str, Callable[[Path], object]] = {
        "status": lambda folder: status.main(["--results-dir", str(folder)]),
        "reading all records": records.read_all,
        "looking whether records have come": records.stamps,
        "verdicts on claims": lambda folder: claims_main(["--results-dir", str(folder)]),
        "seeds, overview and page": write_shared,
    }
    found: dict[str, list[float]] = {name: [] for name in readers}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "results"
            shutil.copytree(results, copy)
            multiply(copy, count)
            for name, read in readers.items():
                found[name].append(seconds(lambda read=read, copy=copy: read(copy)))  # type: ignore[misc]
    largest = counts[-1] * len(CATEGORIES)
    return [[name, *(f"{t:.2f}" for t in taken), f"{1000 * taken[-1] / largest:.2f}"] for name, taken in found.items()]


def stored(results: Path) -> list[list[str]]:
    """Files and kB for each category of a run, by what they are; images that runs share are counted once."""
    runs = len(list((results / "records" / "demo").iterdir()))
    rows = []
    for name in ("records", "pictures", "pictures/images", "tables", "page", "jobs"):
        paths = [path for path in (results / name).rglob("*") if path.is_file()]
        if name == "pictures":
            paths = [path for path in paths if "images" not in path.parts]
        cases = runs * len(CATEGORIES)
        kb = sum(path.stat().st_size for path in paths) / 1000
        rows.append([name, f"{len(paths) / cases:.1f}", f"{kb / cases:.1f}"])
    return rows


def opened(shards: int) -> float:
    """Seconds until a process has found one image among so many shards of one image each."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "0" / "image"
        with mock.patch.object(os, "fsync"):
            for number in range(shards):
                about = {"corners": [[0, 0]], "size": [240, 240], "original_size": [900, 900]}
                Shards(place).write([Item(f"{number:064x}", 1, about)], np.full((1, 640), number, np.float32))
        return seconds(lambda: Shards(place).find([f"{shards - 1:064x}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of growing sweeps and results")
    parser.add_argument("--runs", default="100,400,1600", metavar="N,…", help="sizes; now %(default)s")
    counts = sorted(map(int, parser.parse_args().runs.split(",")))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        words = ["-m", "k_shot=1", "seed=0,1", f"dataset.categories=[{','.join(CATEGORIES)}]", f"results_dir={results}"]
        command(*words, f"runtime.cache_dir={folder}/cache")
        print(f"{os.cpu_count()} cores; {len(CATEGORIES)} categories a run\n")
        head = ["seconds", *(f"{count:,} runs" for count in counts), "ms a category at the most"]
        print(tabulate(grown(results, counts), head, tablefmt="pipe", disable_numparse=True), "\n")
        print(tabulate(stored(results), ["of a category", "files", "kB"], tablefmt="pipe", disable_numparse=True), "\n")
        found = {count: opened(count) for count in counts}
        rows = [[f"{count:,}", f"{taken:.2f}", f"{1000 * taken / count:.2f}"] for count, taken in found.items()]
        head = ["shards of one kind", "seconds to find an image", "ms a shard"]
        print(tabulate(rows, head, tablefmt="pipe", disable_numparse=True), "\n")
        few, many = planned(80), planned(800)
        print(f"Planning: {1000 * (many - few) / 720:.1f} ms a job ({few:.1f} s for 80, {many:.1f} s for 800)")


if __name__ == "__main__":
    main()
