"""Runs that differ in nothing but the seed of their references, and how far their numbers spread over the seeds."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from winclip_bench.metrics.intervals import Spread, spread
from winclip_bench.records import Record

_NOT_IDENTITY = {"seed", "results_dir", "save_maps", "pictures", "force", "tracker"}


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with at least two seeds.

    key    12 hex digits that name the configuration without the seed
    runs   the records of each run, by category, by its seed; seeds ascending
    """

    key: str
    runs: Mapping[int, Mapping[str, Record]]

    @property
    def categories(self) -> list[str]:
        """Names of the categories of any run, sorted."""
        return sorted({name for run in self.runs.values() for name in run})

    @property
    def in_all_runs(self) -> list[str]:
        """Names of the categories that every run has finished, sorted."""
        return [name for name in self.categories if all(name in run for run in self.runs.values())]


def seed_groups(records: Iterable[Record]) -> list[Group]:
    """The groups among the runs, in the order of their first record; runs without a drawing by seed are in none."""
    found: dict[str, dict[int, dict[str, Record]]] = {}
    for record in records:
        if drawn_by_seed(record):
            runs = found.setdefault(_key(record), {})
            runs.setdefault(record.config["seed"], {})[record.category] = record
    return [Group(key, {seed: runs[seed] for seed in sorted(runs)}) for key, runs in found.items() if len(runs) > 1]


def class_spread(group: Group, category: str, metric: str) -> Spread:
    """A metric of one category over the seeds whose run has it."""
    runs = group.runs.items()
    return spread({seed: run[category].metrics.get(metric) for seed, run in runs if category in run})


def mean_spread(group: Group, metric: str) -> tuple[Spread, bool]:
    """The seeds' means of a metric over the categories that every run has finished and defines the metric for.

    Its standard deviation is that of these means, not the mean of the categories' standard deviations. The second
    value is whether categories that every run has finished are left out.
    """
    columns = [
        [value for run in group.runs.values() if (value := run[name].metrics.get(metric)) is not None]
        for name in group.in_all_runs
    ]
    defined = [column for column in columns if len(column) == len(group.runs)]
    means = [fmean(values) for values in zip(*defined, strict=True)]
    return spread(dict(enumerate(means))), 0 < len(defined) < len(columns)


def drawn_by_seed(record: Record) -> bool:
    """Whether the references of a run hang on its seed: not those from a file, nor the first ones."""
    config = record.config
    return config["k_shot"] > 0 and references_file(record) is None and config["protocol"].get("references") != "first"


def references_file(record: Record) -> str | None:
    """The file that named the references of a run, if one did."""
    references = record.config.get("references")
    file = references.get("file") if isinstance(references, dict) else None
    return file if isinstance(file, str) else None


def _key(record: Record) -> str:
    """What two runs have in common that differ in the seed alone; where the data lie and on what it ran is no part."""
    config: dict[str, Any] = {key: value for key, value in record.config.items() if key not in _NOT_IDENTITY}
    config["dataset"] = {key: value for key, value in config["dataset"].items() if key != "root"}
    config["runtime"] = config["runtime"]["precision"]
    content = {key: record.provenance.get(key) for key in ("weights_sha256", "dataset_digest")}
    text = json.dumps([record.dataset, config, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
