"""The command line: Hydra composes one configuration per job, the runner runs it.

Only this module sees Hydra. A job never raises for bad input: it reports and the next job runs; `main` answers
for all of them with one exit code.
"""

import io
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from winclip_bench import config, usage
from winclip_bench.errors import InputError, printable

_exit_codes: list[int] = []
_scratch = tempfile.TemporaryDirectory(prefix="winclip-bench-")  # Hydra insists on writing multirun.yaml somewhere

_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
_NO_PART_OF_A_SWEEP = ("results_dir=", "force=", "tracker", "runtime.")
_LONGEST_GROUP = 128  # characters, of W&B
_INTERRUPTED = 130  # exit code, as a shell has it for SIGINT

config.register()
OmegaConf.register_new_resolver("scratch_dir", lambda: _scratch.name, replace=True)
OmegaConf.register_new_resolver("usage", usage.help_text, replace=True)


@hydra.main(version_base="1.3", config_path="pkg://winclip_bench.conf", config_name="config")
def _job(cfg: DictConfig) -> None:
    """Run one job of a run or sweep; its exit code joins the others."""
    from winclip_bench.runner import run  # noqa: PLC0415  (torch takes seconds to import; --help should not)

    try:
        settings = config.resolve(cfg)
        settings.tracker.group = settings.tracker.group or _sweep()
        _exit_codes.append(run(settings))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        _exit_codes.append(1)


def compose(overrides: Sequence[str]) -> config.Config:
    """The configuration of the one job that these arguments of `run.py` ask for.

    Raises InputError where Hydra or a setting refuses them.
    """
    try:
        with hydra.initialize_config_module("winclip_bench.conf", version_base="1.3"):
            return config.resolve(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_refusal(error, overrides)) from error


def _sweep() -> str | None:
    """What the jobs of a sweep have in common: the settings that they were asked for with; None for a single run."""
    if HydraConfig.get().mode is not RunMode.MULTIRUN:
        return None
    words = (word for word in sys.argv[1:] if "=" in word and not word.startswith(_NO_PART_OF_A_SWEEP))
    return " ".join(words)[:_LONGEST_GROUP] or None


def _refusal(error: Exception, arguments: Sequence[str]) -> str:
    """Why Hydra refuses these arguments, in one sentence: the first that is wrong, and the nearest right one."""
    parser = OverridesParser.create()
    sweeps = not {"-m", "--multirun"}.isdisjoint(arguments)
    for argument in arguments:
        if argument.startswith(("-", "+", "~", "hydra.")):
            continue
        if "=" not in argument:
            return f"{argument} has no value; write {argument}=…"
        try:
            override = parser.parse_override(argument)
        except HydraException:
            return f"{argument} cannot be read; write name=value, and quote a value with spaces or brackets in it"
        several = override.is_sweep_override()
        values = list(override.sweep_string_iterator()) if several else [override.get_value_element_as_str()]
        if wrong := usage.explain(override.key_or_group, values):
            return wrong
        if several and not sweeps:
            listed = argument.replace("=", "=[", 1) + "]"
            return f"{argument} has several values; add -m for a run of each, or write {listed} for a list"
    reason = str(error.__cause__ or error).strip().partition("\n")[0]
    setting = str(error).strip().partition("\n")[0].removeprefix("Error merging override ")
    return setting if reason == setting else f"{setting} is refused: {reason}"


def _same_command() -> str:
    """How this process was called, to be typed again."""
    python = ["python"] if sys.argv[0].endswith(".py") else []
    program = sys.argv[0] if python else Path(sys.argv[0]).name
    return shlex.join([*python, program, *sys.argv[1:]])


class _StoppedError(BaseException):
    """A signal asked the process to end; the argument is its number."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Signals with which machines are cleared and jobs preempted are raised, so that no half-written file stays.

    One that somebody handles or ignores already, as nohup and launchers do, is left to them.
    """

    def stop(number: int, _: object) -> None:
        raise _StoppedError(number)

    mine = []
    if threading.current_thread() is threading.main_thread():
        mine = [number for number in _STOPPING if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def main() -> int:
    """Run `winclip-bench`; returns the exit code: 0 only if every category of every job finished."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")
    if sys.argv[1:2] == ["predict"]:
        from winclip_bench import predict  # noqa: PLC0415  (as above)

        return predict.main(sys.argv[2:])
    _exit_codes.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what it would otherwise print in its own words
    try:
        with _stoppable():
            _job()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {printable(_refusal(error, sys.argv[1:]))}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, _StoppedError) as stop:
        number = stop.args[0] if isinstance(stop, _StoppedError) else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        print(f"{how}; what is finished is kept. To continue: {printable(_same_command())}", file=sys.stderr)
        return 128 + number
    except Exception:  # a fault of ours: whoever reports it needs all of it
        traceback.print_exc()
        return 1
    return max(_exit_codes, default=0)


def command() -> NoReturn:
    """`winclip-bench` as a process: ends with the exit code of `main`, and at once where it was interrupted."""
    code = main()
    if code == _INTERRUPTED:  # torch takes seconds to tidy up, and nothing is left to be written
        _scratch.cleanup()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
