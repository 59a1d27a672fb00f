"""What is made from the records of a results folder: `python -m winclip_bench.report page|tables|figures`."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from winclip_bench.errors import InputError, printable
from winclip_bench.records import Record, read_all
from winclip_bench.report.page import write_page
from winclip_bench.report.tables import METRICS, write_overview, write_seeds_tables, write_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 0 also where a broken record was left out with a warning."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    options = _parser().parse_args(arguments)
    try:
        options.make(options)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _page(options: argparse.Namespace) -> None:
    path, broken = write_page(_results(options))
    for fault in broken:
        print(f"warning: {printable(fault)}", file=sys.stderr)
    print(printable(str(path)))


def _tables(options: argparse.Namespace) -> None:
    """The table of every run, those over seeds, and the overview."""
    results_dir = _results(options)
    runs: dict[str, list[Record]] = {}
    records = _records(results_dir)
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    paths = [path for own in runs.values() for path in write_tables(results_dir, own)]
    paths += write_seeds_tables(results_dir, records)
    for path in [*paths, write_overview(results_dir, records)]:
        print(printable(str(path)))


def _figures(options: argparse.Namespace) -> None:
    from winclip_bench.report.figures import write_figures  # noqa: PLC0415  (matplotlib takes a second)

    results_dir = _results(options)
    paths = write_figures(
        results_dir, _records(results_dir), metrics=options.metric, formats=options.format, rows=options.rows
    )
    if not paths:
        raise InputError(f"{results_dir} has nothing to draw: no two runs to compare, no pictures and no claims")
    for path in paths:
        print(printable(str(path)))


def _records(results_dir: Path) -> list[Record]:
    found, broken = read_all(results_dir)
    for fault in broken:
        print(f"warning: {printable(fault)}", file=sys.stderr)
    return found


def _results(options: argparse.Namespace) -> Path:
    folder: Path = options.results_dir
    if not folder.is_dir():
        raise InputError(f"--results-dir {folder} is no folder; name the results_dir of your runs")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m winclip_bench.report", description="Make what is made from records alone, without a run."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    page = commands.add_parser("page", help="the page: index.html and a page per run")
    page.set_defaults(make=_page)
    tables = commands.add_parser("tables", help="every run's table, as markdown, CSV and LaTeX, and the overview")
    tables.set_defaults(make=_tables)
    figures = commands.add_parser("figures", help="metric against k, ablations, differences to claims, pictures")
    figures.set_defaults(make=_figures)
    figures.add_argument("--metric", nargs="+", choices=METRICS, default=["auroc_sp", "auroc_px", "aupro"])
    figures.add_argument("--format", nargs="+", choices=("pdf", "png", "svg"), default=["pdf", "png"])
    figures.add_argument("--rows", type=int, default=6, metavar="N", help="of pictures; 0 makes none; now %(default)s")
    for command in (page, tables, figures):
        command.add_argument(
            "--results-dir", type=Path, default=Path("results"), metavar="DIR", help="of the runs; now %(default)s"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
