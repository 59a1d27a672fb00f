"""What the page says, as plain values: rows of runs that differ in their seed alone, classes, curves, claims."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from winclip_bench import pictures
from winclip_bench.errors import InputError, printable
from winclip_bench.files import check_plain
from winclip_bench.metrics.intervals import Spread, spread
from winclip_bench.metrics.points import roc_points
from winclip_bench.metrics.sample import sample_metrics
from winclip_bench.records import Record, curves_path, scores_path
from winclip_bench.report.spread import Group, drawn_by_seed, mean_spread
from winclip_bench.report.tables import (
    METRICS,
    Table,
    backbone_label,
    draw_label,
    method_label,
    remarks,
    scales_label,
    table,
)

_NO_PART_OF_A_SERIES = {"k_shot", "seed", "results_dir", "save_maps", "pictures", "force", "tracker"}
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """The finished categories of one run, by name."""

    records: Mapping[str, Record]

    @property
    def any(self) -> Record:
        return self.records[min(self.records)]

    @property
    def run_id(self) -> str:
        return self.any.run_id

    @property
    def dataset(self) -> str:
        return self.any.dataset

    @property
    def k(self) -> int:
        return int(self.any.config["k_shot"])

    @property
    def draw(self) -> str:
        """Which references it has, where it has any."""
        return draw_label(self.any)

    @cached_property
    def table(self) -> Table:
        return table(list(self.records.values()))


@dataclass(frozen=True)
class Claimed:
    """What a publication says of a mean, in percent, and how far ours is from it."""

    claim: str
    claimed: float
    difference: float
    verdict: str


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed of their references alone; a zero-shot run is one by itself.

    claims   metric -> what is claimed of it
    """

    runs: Sequence[Run]
    claims: Mapping[str, Sequence[Claimed]] = field(default_factory=dict)

    @property
    def any(self) -> Record:
        return self.runs[0].any

    @property
    def k(self) -> int:
        return self.runs[0].k

    @property
    def labels(self) -> dict[str, str]:
        """What tells rows apart, as words."""
        config = self.any.config
        return {
            "dataset": self.any.dataset,
            "method": method_label(self.any),
            "backbone": backbone_label(self.any),
            "prompts": config["prompts"]["name"],
            "protocol": config["protocol"]["name"],
            "scales": scales_label(self.any),
            "precision": config["runtime"]["precision"],
        }

    @cached_property
    def group(self) -> Group:
        return Group("", {number: run.records for number, run in enumerate(self.runs)})

    @cached_property
    def means(self) -> dict[str, Spread]:
        """Every metric over the runs' means over the classes."""
        return {metric: mean_spread(self.group, metric)[0] for metric in METRICS}

    @cached_property
    def incomplete(self) -> frozenset[str]:
        """The metrics whose mean leaves out classes that do not define them."""
        return frozenset(metric for metric in METRICS if mean_spread(self.group, metric)[1])

    @property
    def classes(self) -> tuple[int, int]:
        """How many classes the means are over, and how many there should be."""
        asked = {name for run in self.runs for name in run.any.config["dataset"].get("categories") or ()}
        return len(self.group.in_all_runs), len(asked | set(self.group.categories))

    def of_class(self, category: str, metric: str) -> Spread:
        """A metric of one class over the runs that have it."""
        found = (run.records[category].metrics.get(metric) for run in self.runs if category in run.records)
        return spread(dict(enumerate(found)))


@dataclass(frozen=True)
class Series:
    """Rows that differ in k alone, k ascending."""

    rows: Sequence[Row]

    @property
    def any(self) -> Record:
        return self.rows[0].any

    @property
    def dataset(self) -> str:
        return self.any.dataset


@dataclass(frozen=True)
class Histogram:
    """Image scores in bins of equal width: ``edges`` has one more than ``normal`` and ``anomalous`` have counts.

    thresholds   what it is -> score; chosen on these labels
    """

    edges: list[float]
    normal: list[int]
    anomalous: list[int]
    thresholds: Mapping[str, float]


@dataclass(frozen=True)
class Class:
    """One category of a run, beyond its record. What is missing is said in ``missing``, a sentence each."""

    record: Record
    image_roc: Points
    pixel_roc: Points
    pro: Points
    histogram: Histogram | None
    shown: pictures.Shown | None
    missing: Sequence[str]


def series_of(records: Iterable[Record], claims: Iterable[Mapping[str, Any]] = ()) -> list[Series]:
    """All records in order: datasets by name, then methods, backbones and whatever else tells their runs apart.

    claims   as `read_claims` gives them
    """
    runs: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        runs.setdefault((record.dataset, record.run_id), {})[record.category] = record
    found: dict[str, dict[tuple[int, str], list[Run]]] = {}
    for run in map(Run, runs.values()):
        # Runs of one k are draws of the same thing only where a seed drew their references, each seed once.
        rows = found.setdefault(_series_key(run.any), {})
        draws = rows.setdefault((run.k, ""), []) if drawn_by_seed(run.any) else None
        if draws is None or any(other.any.config["seed"] == run.any.config["seed"] for other in draws):
            rows[run.k, run.run_id] = [run]
        else:
            draws.append(run)
    by_runs = _claims_by_runs(claims)
    series = []
    for by_k in found.values():
        content = []
        for _, members in sorted(by_k.items()):
            members.sort(key=lambda run: (run.any.config["seed"], run.run_id))
            ids = frozenset(run.run_id for run in members)
            content.append(Row(members, by_runs.get(ids, {})))
        series.append(Series(content))
    return sorted(series, key=lambda one: (list(one.rows[0].labels.values()), one.rows[0].runs[0].run_id))


def _series_key(record: Record) -> str:
    config: dict[str, Any] = {key: value for key, value in record.config.items() if key not in _NO_PART_OF_A_SERIES}
    config["dataset"] = {key: value for key, value in config["dataset"].items() if key != "root"}
    config["runtime"] = config["runtime"]["precision"]
    config.pop("references", None)
    content = {key: record.provenance.get(key) for key in ("weights_sha256", "dataset_digest")}
    return json.dumps([record.dataset, config, content], sort_keys=True)


def best(rows: Iterable[Row]) -> set[tuple[str, str, str]]:
    """(dataset, metric, value as it is shown) of the best means of each dataset that has at least two to compare."""
    shown: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for metric, mean in row.means.items():
            if mean.mean is not None:
                shown.setdefault((row.any.dataset, metric), []).append(percent(mean.mean))
    return {(*key, max(values, key=float)) for key, values in shown.items() if len(values) > 1}


def percent(value: float) -> str:
    """One decimal.

    >>> percent(0.9184)
    '91.8'
    """
    return f"{100 * value:.1f}"


def read_claims(results_dir: Path) -> list[dict[str, Any]]:
    """The comparisons with published means that the command for claims has left; none where it has not run.

    Raises InputError where its file is not usable.
    """
    path = Path(results_dir) / "claims" / "claims.json"
    try:
        check_plain(path)
        found = json.loads(path.read_bytes())["claims"]
        return [
            claim
            for claim in found
            if claim["object"] == "mean" and claim["runs"] and isinstance(claim["difference"], float)
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{printable(str(path))} is not usable: make it again with python -m winclip_bench.claims"
        ) from error


def _claims_by_runs(claims: Iterable[Mapping[str, Any]]) -> dict[frozenset[str], dict[str, list[Claimed]]]:
    found: dict[frozenset[str], dict[str, list[Claimed]]] = {}
    for claim in claims:
        ids = frozenset(map(str, claim["runs"]))
        one = Claimed(
            str(claim["claim"]), float(claim["claimed"]), float(claim["difference"]), str(claim.get("verdict", ""))
        )
        found.setdefault(ids, {}).setdefault(str(claim["metric"]), []).append(one)
    return found


def class_of(results_dir: Path, record: Record) -> Class:
    """What lies beside a record; nothing of it is needed."""
    missing: list[str] = []
    place = (record.dataset, record.run_id, record.category)
    scores = _rows(scores_path(results_dir, *place), ("image_score", "label"))
    if scores is not None and not np.isin(scores[:, 1], (0, 1)).all():
        scores = None
    curve = _rows(curves_path(results_dir, *place), ("fpr", "tpr", "pro"))
    image_roc: Points = []
    histogram = None
    if scores is None:
        missing.append("No image scores lie beside the record.")
    elif len(scores):
        image_roc, histogram = roc_points(scores[:, 0], scores[:, 1]), _histogram(scores[:, 0], scores[:, 1])
    if curve is None:
        missing.append("No pixel curves lie beside the record: it comes from an older version; force=true makes them.")
        curve = np.empty((0, 3))
    shown = None
    try:
        shown = pictures.read(results_dir, record.run_id, record.category)
    except InputError as error:
        missing.append(str(error))
    else:
        if shown is None:
            missing.append("No pictures were kept of this class; pictures=24 force=true makes some.")
    return Class(
        record=record,
        image_roc=image_roc,
        pixel_roc=[(float(point[0]), float(point[1])) for point in curve],
        pro=[(float(point[0]), float(point[2])) for point in curve],
        histogram=histogram,
        shown=shown,
        missing=missing,
    )


def _rows(path: Path, columns: Sequence[str]) -> np.ndarray | None:
    """Columns of a CSV as numbers [n, columns]; None where the file is not there or not usable."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[float(row[column]) for column in columns] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    values = np.array(rows, np.float64).reshape(-1, len(columns))
    return values if np.isfinite(values).all() else None


def _histogram(scores: np.ndarray, labels: np.ndarray) -> Histogram:
    """At most 24 bins; one threshold of the highest F1, one with at most one in twenty false alarms."""
    edges = np.linspace(scores.min(), scores.max() if scores.max() > scores.min() else scores.min() + 1e-6, 25)
    normal, anomalous = scores[labels == 0], scores[labels == 1]
    thresholds = dict(sample_metrics(scores, labels).thresholds)
    chosen = {"highest F1": thresholds["f1_sp"]} if "f1_sp" in thresholds else {}
    if len(normal) and len(anomalous):
        chosen["5 % false alarms"] = float(np.quantile(normal, 0.95, method="higher"))
    return Histogram(
        [float(edge) for edge in edges],
        [int(count) for count in np.histogram(normal, edges)[0]],
        [int(count) for count in np.histogram(anomalous, edges)[0]],
        chosen,
    )


def all_remarks(records: Iterable[Record]) -> list[str]:
    """What has to be said about the numbers of any of these, once each."""
    return list(dict.fromkeys(line for record in records for line in remarks(record)))
