"""What can be set, for people: the help on one screen, and the nearest right setting for a mistyped one."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from types import UnionType
from typing import Any, get_args, get_type_hints

from winclip_bench.config import Config
from winclip_bench.errors import printable

_WIDTH = 100  # characters of a line of help
_LABEL = 19
_PRESETS = ("dataset", "backbone", "prompts", "method", "protocol", "experiment", "tracker")
_SHOWN = ("runtime.precision", "runtime.device", "stage")  # settings whose options are shown, too
_OPTIONAL = ("experiment", "stage")  # that take null
_LAUNCHER = "hydra/launcher"
_FREE = ("dataset.class_names.", "protocol.class_words.")  # whose own keys are anybody's


def help_text() -> str:
    """Every axis with its options, in at most 40 lines."""
    known = settings()
    axes = {group: [name for name in options()[group] if "/" not in name] for group in _PRESETS}
    axes |= {key: list(known[key] or ()) for key in _SHOWN}
    lines = [
        "Zero- and few-shot anomaly detection with CLIP, measured: `python run.py` runs the embedded demo.",
        "",
        "  python run.py dataset=mvtec k_shot=4            one run",
        "  python run.py -m k_shot=0,1,2,4 dataset=mvtec   a sweep: a run for each value",
        "  … hydra/launcher=submitit_slurm                 its jobs on a cluster, or with =ray; docs/scale.md",
        "  python -m winclip_bench.status                  what is finished, running, failed or missing",
        "  python run.py --cfg job …                       every setting and its value, without running",
        "  winclip-bench predict --help                    scores and heatmaps of your own images",
        "",
    ]
    for axis, names in axes.items():
        lines += _labelled(axis, "  ".join(names))
    numbers = "k_shot=0  seed=0  scales=[2,3]  dataset.root=…  dataset.categories=[a,b]  references.file=…"
    lines += _labelled("and", numbers)
    lines += _labelled(
        "output",
        "results_dir=results  save_maps=true  pictures=24  force=true  split_categories=true  runtime.cache_dir=…",
    )
    lines += ["", "conf/ and docs/ explain them. The same command again continues what is not finished."]
    return "\n".join(lines)


def explain(key: str, values: Sequence[str]) -> str | None:
    """What is wrong with one setting of a command, as a sentence with the nearest right one; None for nothing.

    key     dotted, or the name of a group
    values  one, or those of a sweep

    >>> explain("protocl", ["paper"])
    'protocl=paper: there is no setting protocl; did you mean protocol?'
    >>> explain("dataset", ["mvtec", "vissa"])
    'dataset=vissa: there is no such dataset; did you mean visa?'
    >>> explain("runtime.device", ["gpu"])
    'runtime.device=gpu: there is no such runtime.device; choose one of auto, cpu, cuda'
    >>> explain("hydra/launcher", ["joblib"])
    'hydra/launcher=joblib: there is no such launcher; choose one of basic, ray, submitit_slurm'
    """
    groups, known = options(), settings()
    if key.startswith(_FREE):
        return None
    if key == _LAUNCHER:
        allowed = ["basic", *sorted(_names(resources.files("winclip_bench.conf") / "hydra" / "launcher", ""))]
        wrong = [value for value in values if value not in allowed]
        return (
            printable(f"{key}={wrong[0]}: there is no such launcher; choose one of {', '.join(allowed)}")
            if wrong
            else None
        )
    if key not in groups and key not in known:
        candidates = [*groups, *known]
        found = get_close_matches(key, candidates, 1, 0.6) or _by_last_part(key, candidates)
        advice = f"did you mean {found[0]}?" if found else "python run.py --help shows them"
        return printable(f"{key}={','.join(values)}: there is no setting {key}; {advice}")
    allowed = groups.get(key) or known[key] or []
    for value in values if allowed else ():
        if value not in allowed and not (value == "null" and key in _OPTIONAL):
            found = get_close_matches(value, allowed, 1, 0.7)
            plain = [name for name in allowed if "/" not in name]
            advice = f"did you mean {found[0]}?" if found else f"choose one of {', '.join(plain)}"
            return printable(f"{key}={value}: there is no such {key}; {advice}")
    return None


@cache
def options() -> Mapping[str, list[str]]:
    """The files of each folder of conf, sorted; those of folders in folders with their path."""
    return {
        group.name: sorted(_names(group, ""))
        for group in resources.files("winclip_bench.conf").iterdir()
        if group.is_dir() and group.name in _PRESETS
    }


@cache
def settings() -> Mapping[str, list[str] | None]:
    """Every dotted setting, and the values of those that have a choice of them."""
    return dict(_settings(Config, ""))


def _settings(schema: type[Any], prefix: str) -> Iterator[tuple[str, list[str] | None]]:
    for name, hint in get_type_hints(schema).items():
        kinds = [
            kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if isinstance(kind, type)
        ]
        choice = next((kind for kind in kinds if issubclass(kind, StrEnum)), None)
        yield prefix + name, None if choice is None else [member.value for member in choice]
        for kind in kinds:
            if is_dataclass(kind):
                yield from _settings(kind, f"{prefix}{name}.")


def _names(folder: Traversable, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "defects":  # those are named by method.defect_prompts
            yield from _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml")


def _by_last_part(key: str, candidates: Sequence[str]) -> list[str]:
    """`backbone.weights` is not near anything, `device` is the last part of `runtime.device`."""
    last = key.rpartition(".")[2]
    parts = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
    return [parts[name] for name in get_close_matches(last, parts, 1, 0.75)]


def _labelled(label: str, text: str) -> list[str]:
    first, others = f"  {label:{_LABEL}}", " " * (_LABEL + 2)
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
