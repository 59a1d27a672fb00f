"""The command line in this process, and a small dataset for it."""

import csv
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.data.builders import paint, paint_mask
from winclip_bench import cli, reporting, runner, sweep
from winclip_bench.config import Config

REPOSITORY = Path(__file__).parents[1]
SEVEN = ("auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp")
_SECONDS = re.compile(rb"(computed in</dt><dd>)[0-9.]+|(?<=<td class=\"number\">)[0-9]+\.[0-9]{2}(?=</td>)")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output and standard error, warnings of the log included."""

    code: int
    out: str
    err: str


@contextmanager
def captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What is written meanwhile to standard output and standard error, warnings of the log included."""
    out, err = io.StringIO(), io.StringIO()
    handler = cli.log_handler(err)  # pytest has taken the place of the one that main() would install
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield out, err
    finally:
        logging.getLogger().removeHandler(handler)


def command(*arguments: object) -> Outcome:
    """Run ``winclip-bench`` with these arguments in this process."""
    with mock.patch.object(sys, "argv", ["winclip-bench", *map(str, arguments)]), captured() as (out, err):
        try:
            code: object = cli.main()
        except SystemExit as stop:
            code = stop.code
    return Outcome(code if isinstance(code, int) else int(code is not None), out.getvalue(), err.getvalue())


def jobs(*arguments: object) -> list[Config]:
    """The resolved configurations that a command would run, in order; the command must be accepted."""
    found: list[Config] = []

    def note(config: Config, **_: object) -> int:
        found.append(config)
        return 0

    with (
        mock.patch.object(runner, "run", note),
        mock.patch.object(sweep, "write_sweep"),  # nothing is left behind
        mock.patch.object(reporting, "write_shared", return_value=([], [])),
    ):
        outcome = command(*arguments)
    assert outcome.code == 0, outcome.err
    return found


def python_path(folder: object) -> str:
    """PYTHONPATH with a folder first; what keeps the tests from the network stays on it."""
    return os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])


@contextmanager
def counted_evaluations() -> Iterator[list[str]]:
    """The names of the categories that are evaluated meanwhile."""
    names: list[str] = []
    evaluate = runner.evaluate

    def counting(run: Any, category: Any) -> Any:
        names.append(category.name)
        return evaluate(run, category)

    with mock.patch.object(runner, "evaluate", counting):
        yield names


def make_category(folder: Path, seed: int = 0, shapes: tuple[tuple[int, int], ...] = ((64, 64),)) -> Path:
    """A category in MVTec layout: three training images; in test two good ones, one with a crack and one with a dent.

    shapes   (width, height) of the images, taken in turn
    """
    names = [f"train/good/{number:03}" for number in range(3)]
    names += ["test/good/000", "test/good/001", "test/crack/000", "test/dent/000"]
    for number, name in enumerate(names):
        shape = shapes[number % len(shapes)]
        paint(folder / f"{name}.png", 100 * seed + number, shape)
        if name.startswith("test/") and "good" not in name:
            paint_mask(folder / f"{name.replace('test', 'ground_truth')}_mask.png", size=shape)
    return folder


def make_dataset(root: Path) -> Path:
    """The categories ``bolt``, of square images, and ``wood_panel``, of wide and high ones too."""
    make_category(root / "bolt", 1)
    make_category(root / "wood_panel", 2, ((64, 64), (80, 64), (48, 64)))
    return root


def arguments(root: Path, results: Path, *more: object) -> list[str]:
    """The arguments of a quick run over a folder of categories: a small backbone, one scale, four prompts."""
    settings = {"dataset": "folder", "dataset.root": root, "backbone": "demo", "results_dir": results}
    settings["backbone.pretrained"] = "untrained"
    settings |= {"scales": [2], "prompts": "two_plain"}
    settings["prompts.templates"] = '["a photo of a [s].", "a close-up photo of the [s]."]'
    cache = results.parent / "cache"
    flags = [str(word) for word in more if str(word).startswith("-")]  # argparse wants them before the settings
    rest = [str(word) for word in more if not str(word).startswith("-")]
    return [*flags, *(f"{key}={value}" for key, value in settings.items()), f"runtime.cache_dir={cache}", *rest]


def read_records(results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The records of a results folder by (run_id, category)."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (results / "records").glob("*/*/*.json")]
    return {(record["run_id"], record["category"]): record for record in found}


def run_ids(results: Path) -> set[str]:
    """The runs of which a results folder has a record."""
    return {run_id for run_id, _ in read_records(results)}


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A record without some of its parts."""
    return {key: value for key, value in record.items() if key not in keys}


def tree(results: Path) -> dict[str, bytes]:
    """Every file of a results folder by path, but for what may differ: the records' ``timing``, which pages show, and
    who was at work when."""
    found = {}
    for path in sorted(path for path in results.rglob("*") if path.is_file()):
        content, name = path.read_bytes(), path.relative_to(results)
        if name.parts[0] in ("jobs", "sweeps"):
            continue
        if name.match("records/*/*/*.json"):
            content = json.dumps(without(json.loads(content), "timing"), sort_keys=True).encode()
        elif name.match("page/*/*.html"):
            content = _SECONDS.sub(rb"\1", content)
        found[name.as_posix()] = content
    return found


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """The files that are not the same in two trees, which a failing test should name rather than print."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def forget_stores() -> None:
    """Open the feature store anew and remember no comparison, as a new process would."""
    runner._encoder.cache_clear()
    runner._comparisons.cache_clear()


def read_table(results: Path, run_id: str) -> dict[str, dict[str, str]]:
    """The CSV table of a run by the label of its rows."""
    (path,) = (results / "tables").glob(f"*{run_id}.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["objects"]: row for row in csv.DictReader(file)}
