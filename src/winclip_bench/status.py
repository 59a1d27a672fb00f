"""What of the sweeps and runs of a results folder is finished, running, failed or missing, and what finishes it.

    python -m winclip_bench.status [--results-dir results]

The records say what is finished; the files of `winclip_bench.jobs` say who is at work on the rest, and why it failed.
Exit code 0 if everything that was asked for is finished.
"""

import argparse
import io
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from winclip_bench.errors import InputError, printable
from winclip_bench.jobs import AskedSweep, Standing, State, read_jobs, read_sweeps, sweep_path

_ORDER: tuple[State, ...] = ("finished", "running", "failed", "stopped", "lost", "missing")
_MEANING = {
    "stopped": "stopped from outside",
    "lost": "its process died, or its machine is out of reach",
    "missing": "not begun, or its records have been deleted",
}
_MOST_ROWS = 50


@dataclass(frozen=True)
class Line:
    """One job as it is shown: what it is, what has become of it, and why where that is known."""

    what: str
    standing: Standing

    @property
    def why(self) -> str:
        """The reason, or what the state means."""
        given = [f"{name}: {reason}" if name else reason for name, reason in self.standing.reasons.items()]
        return "; ".join(given) or _MEANING.get(self.standing.state, "")


def lines_of(sweep: AskedSweep, jobs: Mapping[str, Standing]) -> list[Line]:
    """A sweep's jobs, in its order, each called by the settings that it does not share with all others."""
    shared = set.intersection(*(set(asked.overrides) for asked in sweep.jobs)) if len(sweep.jobs) > 1 else set()
    lines = []
    for asked in sweep.jobs:
        if asked.job is None:
            standing = Standing("", "failed", reasons={"": asked.refused or "its settings were refused"})
        else:
            standing = jobs.get(asked.job) or Standing(asked.job, "missing")
        lines.append(Line(" ".join(word for word in asked.overrides if word not in shared), standing))
    return lines


def summary(lines: Sequence[Line]) -> str:
    """How many jobs are in which state.

    >>> print(summary([Line("k_shot=0", Standing("", "finished")), Line("k_shot=1", Standing("", "missing"))]))
    2 jobs: 1 finished, 1 missing
    """
    counts = Counter(line.standing.state for line in lines)
    found = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    return f"{len(lines)} job{'s' * (len(lines) != 1)}: {found}"


def section(heading: str, lines: Sequence[Line], command: str | None) -> Iterator[str]:
    """How many, a row for each that is not finished, and the command that finishes them."""
    yield f"{printable(heading)}\n"
    yield summary(lines) + "\n"
    unfinished = [line for line in lines if line.standing.state != "finished"]
    if unfinished:
        rows = [
            [
                printable(line.what),
                line.standing.state,
                f"{line.standing.done}/{len(line.standing.categories)}" if line.standing.categories else "–",
                printable(line.why),
            ]
            for line in unfinished[:_MOST_ROWS]
        ]
        head = ("job", "state", "categories", "why")
        yield tabulate(rows, head, tablefmt="simple", disable_numparse=True) + "\n"
        if len(unfinished) > _MOST_ROWS:
            yield f"… and {len(unfinished) - _MOST_ROWS} more; --json has all.\n"
        if command and any(line.standing.state != "running" for line in unfinished):
            yield f"To finish: {printable(command)}\n"


def as_json(sweeps: Mapping[str, AskedSweep], jobs: Mapping[str, Standing]) -> str:
    """Everything, for programs."""

    def content(line: Line) -> dict[str, Any]:
        standing = line.standing
        return {
            "job": standing.job,
            "what": line.what,
            "state": standing.state,
            "dataset": standing.dataset,
            "run_id": standing.run_id,
            "categories": list(standing.categories),
            "done": standing.done,
            "reasons": dict(standing.reasons),
        }

    shown = {
        name: {"command": sweep.command, "folder": sweep.folder, "jobs": list(map(content, lines_of(sweep, jobs)))}
        for name, sweep in sweeps.items()
    }
    alone = [content(Line(standing.command or "", standing)) for standing in _alone(sweeps, jobs)]
    return json.dumps({"sweeps": shown, "runs": alone}, indent=1)


def forget(results_dir: Path, name: str) -> None:
    """Delete what a sweep asked for, not what it has done. Raises InputError for a sweep that is not there."""
    known, _ = read_sweeps(results_dir)
    if name not in known:
        raise InputError(f"--forget {name}: there is no such sweep; there are {', '.join(known) or 'none'}")
    sweep_path(results_dir, name).unlink(missing_ok=True)


def _alone(sweeps: Mapping[str, AskedSweep], jobs: Mapping[str, Standing]) -> list[Standing]:
    """Jobs that no sweep has asked for."""
    asked = {one.job for sweep in sweeps.values() for one in sweep.jobs}
    return [standing for key, standing in jobs.items() if key not in asked]


def _finishing(sweep: AskedSweep) -> str:
    """The command of a sweep, in the folder where it was given."""
    if Path(sweep.folder) == Path.cwd():
        return sweep.command
    return f"cd {shlex.quote(sweep.folder)} && {sweep.command}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    parser = argparse.ArgumentParser(
        prog="python -m winclip_bench.status", description="What is finished, running, failed or missing, and why."
    )
    parser.add_argument(
        "--results-dir", type=Path, default=Path("results"), metavar="DIR", help="of the runs; now %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    parser.add_argument("--forget", metavar="SWEEP", help="no longer ask for a sweep; its records stay")
    options = parser.parse_args(arguments)
    try:
        if not options.results_dir.is_dir():
            raise InputError(f"--results-dir {options.results_dir} is no folder; name the results_dir of your runs")
        if options.forget:
            forget(options.results_dir, options.forget)
        return _show(options.results_dir, as_text=not options.json)
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1


def _show(results_dir: Path, *, as_text: bool) -> int:
    jobs, broken = read_jobs(results_dir)
    sweeps, broken_sweeps = read_sweeps(results_dir)
    for fault in [*broken, *broken_sweeps]:
        print(f"warning: {printable(fault)}", file=sys.stderr)
    by_sweep = {name: lines_of(sweep, jobs) for name, sweep in sweeps.items()}
    alone = _alone(sweeps, jobs)
    if not as_text:
        print(as_json(sweeps, jobs))
    elif not sweeps and not alone:
        print(f"nothing has been asked for in {printable(str(results_dir))}")
    else:
        for name, lines in by_sweep.items():
            print("\n".join(section(f"sweep {name}: {sweeps[name].command}", lines, _finishing(sweeps[name]))))
        for standing in alone:
            name = standing.run_id or standing.job
            print("\n".join(section(f"run {name}", [Line(standing.command or name, standing)], standing.command)))
    states = [line.standing.state for lines in by_sweep.values() for line in lines]
    states += [standing.state for standing in alone]
    return int(any(state != "finished" for state in states))


if __name__ == "__main__":
    sys.exit(main())
