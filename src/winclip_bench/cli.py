"""The command line: Hydra composes one configuration per job, the runner runs it.

Only this module sees Hydra. A job never raises for bad input: it reports and the next job runs; `main` answers
for all of them with one exit code.
"""

import io
import logging
import sys
import tempfile

import hydra
from omegaconf import DictConfig, OmegaConf

from winclip_bench import config
from winclip_bench.errors import InputError, printable

_exit_codes: list[int] = []
_scratch = tempfile.TemporaryDirectory(prefix="winclip-bench-")  # Hydra insists on writing multirun.yaml somewhere

config.register()
OmegaConf.register_new_resolver("scratch_dir", lambda: _scratch.name, replace=True)


@hydra.main(version_base="1.3", config_path="pkg://winclip_bench.conf", config_name="config")
def _job(cfg: DictConfig) -> None:
    """Run one job of a run or sweep; its exit code joins the others."""
    from winclip_bench.runner import run  # noqa: PLC0415  (torch takes seconds to import; --help should not)

    try:
        _exit_codes.append(run(config.resolve(cfg)))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        _exit_codes.append(1)


def main() -> int:
    """Run `winclip-bench`; returns the exit code: 0 only if every category of every job finished."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    _exit_codes.clear()
    try:
        _job()
    except KeyboardInterrupt:
        print("interrupted; finished categories are kept, the same command continues.", file=sys.stderr)
        return 130
    return max(_exit_codes, default=0)
