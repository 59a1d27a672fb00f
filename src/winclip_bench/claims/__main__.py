"""Which published numbers hold: `python -m winclip_bench.claims`, over all records of a results folder.

Writes claims.md, claims.csv and claims.json and prints the short form. Verdicts are no failures: the exit code is 0
if there was something to compare with, also where no record exists yet.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from winclip_bench.claims import render
from winclip_bench.claims.published import default_folder, read_claims, select
from winclip_bench.claims.verdicts import compare
from winclip_bench.errors import InputError, printable
from winclip_bench.records import read_all, write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    options = _parser().parse_args(arguments)
    try:
        _run(options.results_dir, options.published or default_folder(), options.claim, options.out)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _run(results_dir: Path, published: Path, names: Sequence[str], out: Path | None) -> None:
    claims = select(read_claims(published), names)
    if not results_dir.is_dir():
        raise InputError(f"--results-dir {results_dir} is no folder; name the results_dir of your runs")
    records, broken = read_all(results_dir)
    for fault in broken:
        print(f"warning: {printable(fault)}", file=sys.stderr)
    results = compare(claims, records)
    print(render.short_markdown(results))
    writers = {"md": render.to_markdown, "csv": render.to_csv, "json": render.to_json}
    for ending, write in writers.items():
        path = (out or results_dir / "claims") / f"claims.{ending}"
        write_atomically(path, write(results).encode("utf-8", "backslashreplace"))
        print(printable(str(path)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m winclip_bench.claims", description="Compare all records with the published numbers."
    )
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="of the runs; now %(default)s")
    parser.add_argument("--published", type=Path, metavar="DIR", help="another folder of claims than results/published")
    parser.add_argument("--claim", nargs="+", default=[], metavar="NAME", help="only these sources: winclip_paper, …")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to write; claims in the results folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
