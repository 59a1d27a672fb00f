"""The command line: Hydra composes one configuration per job, the runner runs it.

Only this module and `sweep` see Hydra. A job never raises for bad input: it reports and the next job runs; `main`
answers for all of them with one exit code.
"""

import errno
import io
import logging
import math
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from winclip_bench import config, sweep, usage
from winclip_bench.console import sturdy_streams
from winclip_bench.errors import InputError, printable

_exit_codes: list[int] = []
_scratch = tempfile.TemporaryDirectory(prefix="winclip-bench-")  # launchers insist on a folder of their own

_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
_SIGNALLED = 128  # exit codes above it are a signal's, as shells have them
_GRACE = 5.0  # seconds to tidy up, in which signals that follow the first change nothing


def _scratch_dir() -> str:
    return _scratch.name


def _gpus() -> int:
    """How many GPUs a job on this machine takes: one, where there is any."""
    import torch  # noqa: PLC0415  (takes seconds to import)

    return int(torch.cuda.is_available())


# conf/hydra/launcher/submitit_slurm.yaml has all that it needs, whether or not Hydra matches it with the plugin's own.
warnings.filterwarnings("ignore", message=r"\n'hydra/launcher/\w+' is validated against ConfigStore schema")
config.register()
ConfigStore.instance().store(group="hydra/sweeper", name="winclip_bench", node=sweep.SweeperConfig)
OmegaConf.register_new_resolver("scratch_dir", _scratch_dir, replace=True)
OmegaConf.register_new_resolver("usage", usage.help_text, replace=True)
OmegaConf.register_new_resolver("gpus", _gpus, replace=True)


def _task(cfg: DictConfig) -> list[int]:
    """What one of Hydra's jobs runs: the one run that was asked for, or jobs of a sweep. Returns their exit codes."""
    own = HydraConfig.get().sweeper
    if own.get("jobs"):
        return sweep.run_jobs(own.sweep, own.jobs, cast(DictConfig, HydraConfig.instance().cfg))
    from winclip_bench.runner import run  # noqa: PLC0415  (torch takes seconds to import; --help should not)

    try:
        settings = config.resolve(cfg)
        if settings.split_categories:
            raise InputError("split_categories=true splits the runs of a sweep, and this is a single run; add -m")
        _exit_codes.append(run(settings, command=_same_command()))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        _exit_codes.append(1)
    return _exit_codes[-1:]


# Not as a decorator: a launcher sends the task to other processes by its name.
_hydra_main = hydra.main(version_base="1.3", config_path="pkg://winclip_bench.conf", config_name="config")(_task)


def compose(overrides: Sequence[str]) -> config.Config:
    """The configuration of the one job that these arguments of `run.py` ask for.

    Raises InputError where Hydra or a setting refuses them.
    """
    try:
        with hydra.initialize_config_module("winclip_bench.conf", version_base="1.3"):
            return config.resolve(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_refusal(error, overrides)) from error


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
    if setting.startswith("Could not"):
        return f"{setting.rstrip('.')}: {reason}"
    return setting if reason == setting else f"{setting} is refused: {reason}"


class _Printable(logging.Formatter):
    """Warnings as one line each: they name files, and what files are called comes from elsewhere."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"warning: {printable(record.getMessage())}"


def log_handler(stream: TextIO) -> logging.Handler:
    """What shows warnings on a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Printable())
    return handler


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

    One that somebody handles or ignores already, as nohup and launchers do, is left to them. Those that follow within
    seconds, from an impatient hand or a scheduler, do not cut short what the first one has begun.
    """
    raised = -math.inf

    def stop(number: int, _: object) -> None:
        nonlocal raised
        if time.monotonic() - raised > _GRACE:
            raised = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else _StoppedError(number)

    mine: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        usual = dict.fromkeys(_STOPPING, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
        mine = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in mine:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in mine.items():
            signal.signal(number, handler)


def main() -> int:
    """Run `winclip-bench`; returns the exit code: 0 only if every category of every job finished."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "–" is no reason to fail
    with sturdy_streams() as out, _stoppable():
        logging.basicConfig(level=logging.WARNING, handlers=[log_handler(sys.stderr)])
        try:
            code = _main()
            out.flush()
        except (KeyboardInterrupt, _StoppedError) as stop:
            number = stop.args[0] if isinstance(stop, _StoppedError) else signal.SIGINT
            how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
            print(f"{how}; what is finished is kept. To continue: {printable(_same_command())}", file=sys.stderr)
            return _SIGNALLED + number
        if out.lost is not None and getattr(out.lost, "errno", None) != errno.EPIPE:  # who stops reading knows it
            reason = getattr(out.lost, "strerror", None) or str(out.lost)
            print(f"error: standard output cannot be written ({reason}); redirect it elsewhere", file=sys.stderr)
            return code or 1
    return code


def _main() -> int:
    """The command that the arguments name."""
    if sys.argv[1:2] == ["predict"]:
        from winclip_bench import predict  # noqa: PLC0415  (as above)

        return predict.main(sys.argv[2:])
    _exit_codes.clear()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises what it would otherwise print in its own words
    try:
        Path.cwd()
    except OSError as error:
        print(f"error: there is no working folder ({error.strerror}); change to another one", file=sys.stderr)
        return 1
    try:
        with sweep.sweeping(_same_command()) as codes:
            _hydra_main()
            _exit_codes.extend(codes)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {printable(_refusal(error, sys.argv[1:]))}", file=sys.stderr)
        return 1
    except InputError as error:  # about a whole sweep
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except Exception:  # a fault of ours: whoever reports it needs all of it
        traceback.print_exc()
        return 1
    return max(_exit_codes, default=0)


def command() -> NoReturn:
    """`winclip-bench` as a process: ends with the exit code of `main`, and at once where a signal asked it to."""
    code = main()
    if code > _SIGNALLED:  # torch takes seconds to tidy up, and nothing is left to be written
        _scratch.cleanup()
        os._exit(code)
    sys.exit(code)
