"""How the jobs of a sweep are told apart, written down and handed to a launcher of Hydra's, which runs them anywhere.

The sweep itself is Hydra's: this adds what its own sweeper lacks. Where `split_categories` asks for it, each category
of a run is a job of its own; `hydra.sweeper.runs_per_job` packs several jobs into one of the launcher's; what is asked
for is written down before anything starts (`jobs`); a job that breaks or is lost costs the others nothing; and what is
over all runs is made when they have ended, once, by the process that was asked.

A launcher is told the file of the sweep and which jobs of it to run. So it makes no difference where a job runs, and
one that starts hours later runs what was asked for, or says that the settings have changed since.
"""

import copy
import io
import os
import shlex
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from winclip_bench import config as configuration
from winclip_bench.config import Config, as_dict
from winclip_bench.data import find_root, open_dataset
from winclip_bench.errors import InputError
from winclip_bench.jobs import Asked, AskedSweep, Job, Standing, job_key, read_jobs, read_sweep, write_sweep
from winclip_bench.records import stamps
from winclip_bench.report.page.command import hydra_value
from winclip_bench.reporting import Seldom, report_run, report_shared, say

_PLUGINS = {  # launcher -> the package that brings it, and our extra for it
    "hydra_plugins.hydra_submitit_launcher": "slurm",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
_NO_PART_OF_A_GROUP = ("results_dir=", "force=", "tracker", "runtime.", "split_categories=", "hydra")
_LONGEST_GROUP = 128  # characters, of W&B
WAIT_SECONDS = 30.0  # that a launcher may take to begin a job when another one has ended

Stamps = set[tuple[str, int, int]]


@dataclass
class SweeperConfig:
    """`hydra.sweeper`: as Hydra's basic one, and how many jobs of a sweep one job of the launcher runs, one after the
    other. `sweep` and `jobs` say so to the launcher's jobs; they are not to be set."""

    _target_: str = "hydra_plugins.winclip_bench_sweeper.WinclipBenchSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None
    runs_per_job: int = 1
    sweep: str | None = None
    jobs: list[int] | None = None


@dataclass(frozen=True)
class _Planned:
    """A job before it is launched; without a configuration where that is refused."""

    asked: Asked
    config: Config | None

    @property
    def results_dir(self) -> Path:
        """Where its results go."""
        assert self.config is not None
        return Path(self.config.results_dir)


@dataclass
class _Here:
    """What this process has planned: where the launcher runs its jobs right here, none is composed a second time.

    command  how the process was called, to be called again
    ran      the jobs that have run here, whose codes need no second opinion
    """

    command: str = ""
    planned: dict[tuple[str, int], Config] = field(default_factory=dict)
    ran: set[tuple[str, int]] = field(default_factory=set)
    seldom: Seldom = field(default_factory=Seldom)
    codes: list[int] = field(default_factory=list)


_here = _Here()


@contextmanager
def sweeping(command: str) -> Iterator[list[int]]:
    """What sweeps of this process have in common while they run; gives the exit codes of what has ended.

    command  how the process was called, to be called again
    """
    global _here  # noqa: PLW0603  (Hydra makes the sweeper, and hands back nothing of it)
    _here = _Here(command)
    try:
        yield _here.codes
    finally:
        _here = _Here()


def run_jobs(file: str, numbers: Sequence[int], hydra_config: DictConfig) -> list[int]:
    """Run some jobs of a sweep, one after the other, here; returns their exit codes.

    file          of the sweep
    numbers       of its jobs, from 0
    hydra_config  of the launcher's job
    """
    from winclip_bench.runner import run  # noqa: PLC0415  (torch takes seconds to import)

    codes = []
    for number in numbers:
        try:
            config = _here.planned.get((file, number))
            if here := config is not None:
                _here.ran.add((file, number))
            else:
                config = _compose_again(Path(file), number, hydra_config)
            split = config.split_categories
            with nullcontext() if here else redirect_stdout(io.StringIO()):  # whoever has launched it shows the table
                codes.append(run(config, reports="none" if split else "own"))
            if here and not split:
                _here.seldom.report(Path(config.results_dir))
        except InputError as error:
            say(f"error: {error}")
            codes.append(1)
        except Exception:  # a fault of ours in one job must not cost the others
            traceback.print_exc()
            codes.append(1)
    return codes


class Composer:
    """The configurations of many jobs, as Hydra composes them.

    Hydra reads and merges the files of a configuration anew for each, which takes longer than a job that finds all in
    the store. Here that is done once for each choice of files, and values are set in a copy, as it does in the end.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self._loader, self._master = loader, master
        self._by_choices: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> Config:
        """The configuration of one job. Raises InputError where a value makes no sense, and what Hydra raises."""
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))
        chosen = [override for override in parsed if self._chooses_a_file(override)]
        choices = tuple(str(override.input_line) for override in chosen)
        if choices not in self._by_choices:
            composed = self._loader.load_sweep_config(self._master, list(choices))
            with open_dict(composed):
                del composed["hydra"]
            self._by_choices[choices] = composed
        composed = copy.deepcopy(self._by_choices[choices])
        ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in chosen], composed)
        return configuration.resolve(composed)

    def _chooses_a_file(self, override: Override) -> bool:
        return self._loader.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)


def _compose_again(file: Path, number: int, hydra_config: DictConfig) -> Config:
    """A job's configuration in a process that did not plan it. Raises InputError if it is not what was planned."""
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415

    sweep = _sweep_of(file)
    asked = sweep.jobs[number]
    try:
        config = Composer(GlobalHydra.instance().config_loader(), hydra_config).compose(asked.overrides)
        if job_key(as_dict(config)) != asked.job:
            raise InputError(
                f"the settings of {' '.join(asked.overrides)} are no longer those that {file} was made with; "
                "give the command again"
            )
    except Exception:
        with Job(file.parents[1], str(asked.job)):  # so that the status says why it was not begun
            raise
    config.tracker.group = config.tracker.group or _group(sweep.command)
    return config


@lru_cache(maxsize=1)
def _sweep_of(file: Path) -> AskedSweep:
    return read_sweep(file)


class CategorySweeper(Sweeper):
    """Hydra's basic sweeper with jobs by category, packing, and a file that says what was asked for."""

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        runs_per_job: int = 1,
        sweep: str | None = None,
        jobs: list[int] | None = None,
    ) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self._max_batch_size, self._params, self._runs_per_job = max_batch_size, params or {}, runs_per_job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As Hydra's. Raises InputError where the launcher is not installed."""
        target = str(config.hydra.launcher.get("_target_", ""))
        for package, extra in _PLUGINS.items():
            if target.startswith(package) and not _installed(package):
                raise InputError(
                    f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} is not installed: pip install "
                    f'"winclip-bench[{extra}]"'
                )
        if self._runs_per_job < 1:
            raise InputError(f"hydra.sweeper.runs_per_job={self._runs_per_job} must be 1 or more")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers about every run
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Plan, write down, launch, and report what has become of it."""
        planned = list(self._plan(arguments))
        for reason in dict.fromkeys(job.asked.refused for job in planned if job.config is None):
            say(f"error: {reason}")
            _here.codes.append(1)
        for results_dir in dict.fromkeys(job.results_dir for job in planned if job.config is not None):
            own = [job for job in planned if job.config is None or job.results_dir == results_dir]
            _here.codes.append(self._run(results_dir, own))

    def _plan(self, arguments: Sequence[str]) -> Iterator[_Planned]:
        """The jobs, in their order. What Hydra itself refuses is raised, before anything has started."""
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        composer = Composer(loader, self.config)
        given = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(given)
        for overrides in BasicSweeper.split_arguments(parsed, None)[0]:
            try:
                config = composer.compose(overrides)
                for own, one in _by_category(overrides, config) if config.split_categories else [(overrides, config)]:
                    yield _Planned(Asked(job_key(as_dict(one)), tuple(own)), one)
            except InputError as error:
                yield _Planned(Asked(None, tuple(overrides), str(error)), None)

    def _run(self, results_dir: Path, planned: Sequence[_Planned]) -> int:
        """Run what goes into one results folder; returns the exit code."""
        sweep = AskedSweep(_here.command, str(Path.cwd()), tuple(job.asked for job in planned))
        file = str(write_sweep(results_dir, sweep))
        before = {key: standing.attempt for key, standing in read_jobs(results_dir)[0].items()}
        records_before = stamps(results_dir)
        numbers = [number for number, job in enumerate(planned) if job.config is not None]
        for number in numbers:
            config = planned[number].config
            assert config is not None
            config.tracker.group = config.tracker.group or _group(sweep.command)
            _here.planned[file, number] = config
        # One after the other in this process, a job of the launcher for each would only cost time. By name, because
        # Hydra makes the class anew when it looks for plugins.
        per_job = len(numbers) if type(self.launcher).__name__ == BasicLauncher.__name__ else self._runs_per_job
        packs = [numbers[at : at + per_job] for at in range(0, len(numbers), per_job)]
        size = self._max_batch_size or len(packs)
        codes: list[int] = []
        for at in range(0, len(packs), size):
            codes += self._launch(file, packs[at : at + size], at, before)
        after, _ = read_jobs(results_dir)
        jobs = {}
        unfinished = []
        for number in numbers:
            asked, config = planned[number].asked, _here.planned[file, number]
            standing = after.get(str(asked.job)) or Standing(str(asked.job), "missing")
            jobs[number] = (config, standing)
            well = standing.state == "finished" and standing.attempt != before.get(standing.job)
            if not well and (file, number) not in _here.ran:
                unfinished.append(asked)
        self._report(file, results_dir, jobs, records_before)
        if unfinished:
            say(
                f"{len(unfinished)} of {len(numbers)} jobs have not finished; "
                f"python -m winclip_bench.status --results-dir {results_dir} says which and why"
            )
        return max([*codes, int(bool(unfinished))], default=0)

    def _launch(
        self, file: str, packs: Sequence[Sequence[int]], first_number: int, before: Mapping[str, str | None]
    ) -> list[int]:
        """Exit codes of the jobs of some packs, as far as the launcher has them."""
        assert self.launcher is not None
        which = f"hydra.sweeper.sweep={hydra_value(file)}"
        overrides = [[which, f"hydra.sweeper.jobs={hydra_value(pack)}"] for pack in packs]
        try:
            returned = self.launcher.launch(overrides, initial_job_idx=first_number)
        except Exception as error:  # what became of the jobs, their own files say
            first = (str(error).strip().splitlines() or [""])[0]
            say(f"error: the launcher has given up on a job ({type(error).__name__}: {first})")
            self._wait(file, [number for pack in packs for number in pack], before)
            return [1]
        codes: list[int] = []
        for one in returned:
            try:
                codes += one.return_value
            except Exception:  # of Hydra's; ours are told by `run_jobs`
                traceback.print_exc()
                codes.append(1)
        return codes

    def _wait(self, file: str, numbers: Sequence[int], before: Mapping[str, str | None]) -> None:
        """Wait until none of these jobs has been at work for a while: a launcher does so no longer once one has failed.

        Where none has been begun, it could launch nothing.
        """
        configs = [_here.planned[file, number] for number in numbers]
        keys = {job_key(as_dict(config)) for config in configs}
        begun: list[Standing] = []
        busy = time.monotonic()
        while time.monotonic() - busy < WAIT_SECONDS:
            found = read_jobs(Path(configs[0].results_dir))[0]
            waiting = bool(begun)
            begun = [found[key] for key in keys & found.keys() if found[key].attempt != before.get(key)]
            if not begun:
                return
            if not waiting:
                say("waiting for the other jobs")
            if any(standing.state == "running" for standing in begun):
                busy = time.monotonic()
            time.sleep(1.0)

    def _report(
        self, file: str, results_dir: Path, jobs: Mapping[int, tuple[Config, Standing]], before: Stamps
    ) -> None:
        """What no single job could write or print: the tables of runs that were split or were run elsewhere, and what
        is over all runs."""
        runs: dict[tuple[str, str], list[int]] = {}
        for number, (_, standing) in jobs.items():
            if standing.dataset and standing.run_id:
                runs.setdefault((standing.dataset, standing.run_id), []).append(number)
        for (dataset, run_id), numbers in runs.items():
            config = jobs[numbers[0]][0]
            if not config.split_categories and all((file, number) in _here.ran for number in numbers):
                continue
            names = list(dict.fromkeys(name for number in numbers for name in jobs[number][1].categories))
            reasons = {
                name: why for number in numbers for name, why in jobs[number][1].reasons.items() if name in names
            }
            new = config.split_categories and not stamps(results_dir, dataset, run_id) <= before
            report_run(results_dir, dataset, run_id, names, reasons, config.tracker if new else None)
        if runs:
            report_shared(results_dir, {run_id for _, run_id in runs})


def _by_category(overrides: Sequence[str], config: Config) -> Iterator[tuple[list[str], Config]]:
    """The jobs that a run is split into. Raises InputError where its data cannot be found."""
    dataset = config.dataset
    layout, root = find_root(dataset.layout.value, dataset.root, Path(config.runtime.cache_dir))
    kept = [override for override in overrides if not override.lstrip("+").startswith("dataset.categories=")]
    for category in open_dataset(layout, root, dataset.name, dataset.categories or None).categories:
        name = f"dataset.categories={hydra_value([category.name])}"
        yield [*kept, name], replace(config, dataset=replace(dataset, categories=[category.name]))


def _group(command: str) -> str | None:
    """What W&B shows the runs of a sweep under: the settings that they were asked for with."""
    words = (word for word in shlex.split(command) if "=" in word and not word.startswith(_NO_PART_OF_A_GROUP))
    return " ".join(words)[:_LONGEST_GROUP] or None


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
