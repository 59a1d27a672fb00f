"""Looking at data, and getting it.

python -m winclip_bench.data check dataset=mvtec dataset.root=…    every file is read; settings as for run.py
python -m winclip_bench.data download mvtec                        see download --help

`check` prints what there is and what is wrong with it; its exit code is 1 if a run would refuse any of it.
"""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from winclip_bench import config as configuration
from winclip_bench.config import Config
from winclip_bench.data.checks import check_dataset, to_markdown
from winclip_bench.data.digests import content_digests
from winclip_bench.data.index import find_root, open_dataset
from winclip_bench.errors import InputError, printable


def check(config: Config) -> int:
    """Print everything about the dataset of a configuration; returns the exit code.

    Raises InputError where there is nothing to look at.
    """
    settings, runtime = config.dataset, config.runtime
    layout, root = find_root(settings.layout.value, settings.root, Path(runtime.cache_dir))
    whole = open_dataset(layout, root, settings.name)
    names = [category.name for category in whole.categories]
    selected = open_dataset(layout, root, settings.name, settings.categories) if settings.categories else whole
    report = check_dataset(
        selected,
        names,
        max_pixels=settings.max_pixels,
        threshold=settings.mask_threshold,
        resize=settings.resize_masks,
        workers=runtime.workers,
    )
    digests = content_digests(whole, Path(runtime.cache_dir), runtime.workers)
    print(f"{settings.name} in {printable(str(whole.root))}, layout {layout}, {len(names)} categories\n")
    for line in to_markdown(report).splitlines():
        print(printable(line))
    print(f"content digest {digests.dataset}")
    return int(report.errors > 0)


def compose(overrides: Sequence[str]) -> Config:
    """The configuration that run.py would have with these settings. Raises InputError for settings it would refuse."""
    configuration.register()
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_module("winclip_bench.conf", version_base="1.3"):
            return configuration.resolve(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error.__cause__ or error).split()).split(" Config search path")[0]
        raise InputError(f"the settings are not accepted: {reason}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if command == "download":
        from winclip_bench.data import download  # noqa: PLC0415  (the one command does not need the other)

        return download.main(rest)
    if command != "check" or {"-h", "--help"}.intersection(rest):
        asked = command in ("check", "-h", "--help")
        print(__doc__, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        return check(compose(rest))
    except InputError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
