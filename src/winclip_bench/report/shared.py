"""What is over all runs of a results folder: tables over seeds and types of defects, the overview, the page."""

from collections.abc import Collection
from pathlib import Path

from winclip_bench.errors import InputError
from winclip_bench.records import read_all, stamps
from winclip_bench.report.page import write_page
from winclip_bench.report.tables import write_overview, write_seeds_tables
from winclip_bench.report.typing import write_typing

MOST_TRIES = 3


def write_shared(results_dir: Path, run_ids: Collection[str] | None = None) -> tuple[list[Path], list[str]]:
    """Make it anew from all records there.

    run_ids   seeds and types of these runs only; the overview and the page are over all in any case

    Returns the paths, the overview and the page last, and a sentence for everything that is broken. Raises InputError
    if the file system refuses; a page that cannot be written is one of the sentences.

    Other processes may write records and reports meanwhile. Whoever finds other records at the end than at the
    beginning starts again, so that the last to write has seen everything; beyond a few tries the others, who are still
    at work, will.
    """
    results_dir = Path(results_dir)
    for _ in range(MOST_TRIES):
        before = stamps(results_dir)
        records, broken = read_all(results_dir)
        paths = write_seeds_tables(results_dir, records, run_ids)
        paths += write_typing(results_dir, records, run_ids)
        paths.append(write_overview(results_dir, records))
        try:
            page, broken = write_page(results_dir, (records, broken))
            paths.append(page)
        except InputError as error:
            broken = [*broken, f"no page: {error}"]
        if stamps(results_dir) == before:
            break
    return paths, broken
