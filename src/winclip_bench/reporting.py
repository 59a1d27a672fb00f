"""What a command shows when runs have ended: each run's table, printed, written and mirrored, and what is over all."""

import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from winclip_bench import records
from winclip_bench.config import TrackerConfig, TrackerName
from winclip_bench.errors import printable
from winclip_bench.report.shared import MOST_TRIES, write_shared
from winclip_bench.report.tables import table, to_markdown, write_tables
from winclip_bench.report.typing import stages
from winclip_bench.tracking import track

_SHARE = 0.1  # of the time of a sweep that may go into making anew what is over all runs


def say(line: str) -> None:
    """Tell the person at the terminal, on standard error and beside a display of progress."""
    tqdm.write(printable(line), file=sys.stderr)


def report_run(
    results_dir: Path,
    dataset: str,
    run_id: str,
    expected: Sequence[str],
    reasons: Mapping[str, str],
    tracker: TrackerConfig | None = None,
) -> bool:
    """Print and write the table of a run; whether there is any record to make it of.

    expected  names of the categories that were asked for; those that other commands have finished are in it, too
    reasons   category -> why it failed
    tracker   where the run is mirrored; None where nothing is new
    """
    for _ in range(MOST_TRIES):
        before = records.stamps(results_dir, dataset, run_id)
        of_run = records.read_all(results_dir, dataset, {run_id})[0]
        in_table = [record for record in of_run if record.category not in reasons]
        if not in_table:
            return False
        content = table(in_table, expected, reasons)
        paths = write_tables(results_dir, in_table, expected, reasons)
        if records.stamps(results_dir, dataset, run_id) == before:
            break  # otherwise as in `write_shared`
    print(to_markdown(content))
    if in_table[0].typing is not None:
        print(stages(in_table))
    for path in paths:
        print(path)
    if tracker is not None and tracker.name is TrackerName.wandb:
        place = track(
            in_table,
            content,
            results_dir,
            mode=tracker.mode.value,
            project=tracker.project,
            entity=tracker.entity,
            group=tracker.group,
        )
        if place:
            print(place)
    return True


def report_shared(results_dir: Path, run_ids: Collection[str] | None = None) -> None:
    """Make anew what is over all runs and print where it is; arguments as of `report.shared.write_shared`."""
    paths, broken = write_shared(results_dir, run_ids)
    for path in paths:
        print(path)
    for fault in broken:
        say(f"warning: {fault}")


class Seldom:
    """Whether it is time to make anew what is over all runs of a results folder, in a sweep that adds run after run.

    It takes the longer the more runs there are, so it is due when a tenth of the time since the last has paid for it.
    """

    def __init__(self) -> None:
        self._last: dict[Path, tuple[float, float]] = {}  # when it ended, and how many seconds it had taken

    def report(self, results_dir: Path) -> None:
        """Do it if it is due."""
        begun = time.monotonic()
        ended, took = self._last.get(results_dir, (begun, 0.0))
        if took <= _SHARE * (begun - ended):
            report_shared(results_dir, ())
            now = time.monotonic()
            self._last[results_dir] = (now, now - begun)
