"""From the content to HTML files."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from winclip_bench import pictures
from winclip_bench.errors import InputError, printable
from winclip_bench.records import Record, read_all, safe_name, write_atomically
from winclip_bench.report.page import charts
from winclip_bench.report.page.command import rerun_command
from winclip_bench.report.page.content import (
    Class,
    Row,
    Run,
    Series,
    all_remarks,
    best,
    class_of,
    percent,
    read_claims,
    series_of,
)
from winclip_bench.report.tables import METRICS

FIRST = 6  # pictures of a class that are seen at once; the others open with a click
_AUPRO_LIMIT = 0.3
_CURVE_AXES = ("false-positive rate, %", "true-positive rate, %")
_ALWAYS_SHOWN = ("dataset", "method", "backbone")  # other columns only where they tell rows apart


class _Links:
    """Where the pictures of a class lie, as seen from its run's page."""

    def __init__(self, results_dir: Path, run_id: str, category: str) -> None:
        self.results_dir = results_dir
        # The folders once: a page has thousands of pictures.
        self._images = self._folder(pictures.image_path(results_dir, "0"))
        self._maps = self._folder(pictures.index_path(results_dir, run_id, category))

    def image(self, sha256: str) -> str:
        return f"{self._images}/{_href(pictures.image_path(Path(), sha256).name)}"

    def map(self, number: int, own: bool) -> str:
        return f"{self._maps}/{number}{'.own' * own}.webp"

    def _folder(self, path: Path) -> str:
        return _href("..", "..", *path.parent.relative_to(self.results_dir).parts)


def write_page(
    results_dir: Path, found: tuple[Sequence[Record], Sequence[str]] | None = None
) -> tuple[Path, list[str]]:
    """Make ``<results_dir>/index.html`` and the pages of its runs anew from all records there.

    found   what `records.read_all` gives, where that has just been read

    Returns the path of the former and a sentence for everything that is broken, which the page says too. Raises
    InputError if the file system refuses.
    """
    results_dir = Path(results_dir)
    records, said = read_all(results_dir) if found is None else found
    broken = list(said)
    try:
        claims = read_claims(results_dir)
    except InputError as error:
        claims = []
        broken.append(str(error))
    series = series_of(records, claims)
    for one in series:
        for row in one.rows:
            for run in row.runs:
                write_atomically(_run_path(results_dir, run), _run_page(results_dir, run, row, one).encode())
    path = results_dir / "index.html"
    write_atomically(path, _index_page(series, broken).encode())
    return path, broken


def _run_path(results_dir: Path, run: Run) -> Path:
    name = f"{safe_name(run.run_id, 'run_id')}.html"
    return results_dir / "page" / safe_name(run.dataset, "dataset") / name


def _href(*parts: str) -> str:
    """A relative address, percent-encoded byte by byte: no part can leave its place in it.

    >>> _href("..", "a b/#?.html")
    '../a%20b%2F%23%3F.html'
    """
    return "/".join(quote(os.fsencode(part), safe="") for part in parts)


def _index_page(series: Sequence[Series], broken: Sequence[str]) -> str:
    rows = [row for one in series for row in one.rows]
    labels = [row.labels for row in rows]
    values = {name: sorted({label[name] for label in labels}) for name in (labels[0] if labels else {})}
    shown = [name for name in values if name in _ALWAYS_SHOWN or len(values[name]) > 1]
    ks = [str(k) for k in sorted({row.k for row in rows})]
    content = list(_index_rows(rows))
    datasets = list(dict.fromkeys(one.dataset for one in series))
    return _render(
        "index.html",
        runs=sum(len(row.runs) for row in rows),
        datasets=datasets,
        remarks=all_remarks(row.any for row in rows),
        broken=broken,
        choices={**{name: values[name] for name in shown}, "k": ks},
        shown=shown,
        metrics=list(METRICS),
        rows=content,
        any_best=any(cell.get("best") for row in content for cell in row["cells"].values()),
        any_claim=any(cell.get("claims") for row in content for cell in row["cells"].values()),
        any_incomplete=any(row["incomplete"] for row in content),
        charts=[chart for name in datasets if (chart := _dataset_charts(name, series))],
    )


def _index_rows(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    winners = best(rows)
    for row in rows:
        cells: dict[str, dict[str, Any]] = {}
        for metric, mean in row.means.items():
            cells[metric] = {"text": ""}
            if mean.mean is not None:
                text = percent(mean.mean)
                cells[metric] = {
                    "text": text,
                    "value": mean.mean,
                    "std": "" if mean.std is None else percent(mean.std),
                    "best": (row.any.dataset, metric, text) in winners,
                    "claims": row.claims.get(metric, ()),
                }
        finished, total = row.classes
        seeded = row.runs[0].draw.startswith("seed ")
        links = [
            {
                "href": _href("page", run.dataset, f"{run.run_id}.html"),
                "text": run.draw.removeprefix("seed ") or "open",
                "title": f"run {run.run_id}" + (f", {run.draw}" if run.draw else ""),
            }
            for run in row.runs
        ]
        yield {
            "labels": row.labels,
            "k": row.k,
            "cells": cells,
            "incomplete": row.incomplete,
            "links": links,
            "word": "" if not seeded else "seeds " if len(row.runs) > 1 else "seed ",
            "note": "" if finished == total else f"{finished} of {total} classes",
        }


def _dataset_charts(dataset: str, series: Sequence[Series]) -> dict[str, Any] | None:
    """One small chart per metric, where there is more than one k to compare."""
    of_dataset = [one for one in series if one.dataset == dataset]
    several = [one for one in of_dataset if len({row.k for row in one.rows}) > 1]
    if not several:
        return None
    drawn = several[: charts.MOST_LINES]
    ks = sorted({row.k for one in drawn for row in one.rows})
    names = _series_names(drawn)
    content = []
    for metric in METRICS:
        lines = [_line(name, one.rows, ks, metric, None) for name, one in zip(names, drawn, strict=True)]
        if any(line.values for line in lines):
            svg = charts.against_k(lines, ks, f"{metric} on {dataset} against k: {_said(lines, ks)}")
            content.append({"title": metric, "svg": svg})
    return {"name": dataset, "names": names, "charts": content, "left": len(several) - len(drawn)}


def _series_names(series: Sequence[Series]) -> list[str]:
    """What tells series of one dataset apart; the method as it is called with references."""
    labels = [one.rows[-1].labels for one in series]
    telling = [name for name in labels[0] if name != "dataset" and len({label[name] for label in labels}) > 1]
    names = [" · ".join(label[name] for name in telling or ["method"]) for label in labels]
    if len(set(names)) < len(names):
        names = [f"{name} ({one.rows[0].runs[0].run_id})" for name, one in zip(names, series, strict=True)]
    return names


def _line(name: str, rows: Iterable[Row], ks: Sequence[int], metric: str, category: str | None) -> charts.Line:
    places, values, stds = [], [], []
    for row in rows:
        found = row.means[metric] if category is None else row.of_class(category, metric)
        if found.mean is not None:
            places.append(ks.index(row.k))
            values.append(100 * found.mean)
            stds.append(None if found.std is None else 100 * found.std)
    return charts.Line(name, places, values, stds)


def _said(lines: Sequence[charts.Line], ks: Sequence[int]) -> str:
    """Lines as words, for those who do not see them."""
    return "; ".join(
        f"{line.label}: " + ", ".join(f"k {ks[at]} {y:.1f}" for at, y in zip(line.places, line.values, strict=True))
        for line in lines
    )


def _run_page(results_dir: Path, run: Run, row: Row, series: Series) -> str:
    labels = row.labels
    record = run.any
    classes = [class_of(results_dir, run.records[name]) for name in sorted(run.records)]
    anchors = {one.record.category: f"class-{number}" for number, one in enumerate(classes)}
    stages = list(dict.fromkeys(stage for one in classes for stage in one.record.timing))
    return _render(
        "run.html",
        title=f"{labels['dataset']} · {labels['method']} · k = {run.k}" + (f" · {run.draw}" if run.draw else ""),
        home=_href("..", "..", "index.html"),
        siblings=list(_siblings(run, series)),
        facts={
            **{name: labels[name] for name in ("backbone", "prompts", "protocol", "scales", "precision")},
            "run": run.run_id,
        },
        table=run.table,
        metrics=list(METRICS),
        anchors=anchors,
        classes=[_class_section(results_dir, one, anchors[one.record.category], series) for one in classes],
        any_pictures=any(one.shown for one in classes),
        first=FIRST,
        command=rerun_command(record.config),
        provenance=dict(_provenance(run)),
        stages=stages,
        timing={name: run.records[name].timing for name in sorted(run.records)},
        config=_lines(json.dumps(record.config, indent=2, ensure_ascii=False)),
    )


def _siblings(run: Run, series: Series) -> Iterator[dict[str, Any]]:
    for row in series.rows:
        for other in row.runs:
            yield {
                "href": _href(f"{other.run_id}.html"),
                "text": f"k = {other.k}" + (f", {other.draw}" if other.draw else ""),
                "here": other.run_id == run.run_id,
            }


def _class_section(results_dir: Path, content: Class, anchor: str, series: Series) -> dict[str, Any]:
    record = content.record
    name = record.category
    links = _Links(results_dir, record.run_id, name)
    roc_lines = [
        (label, points)
        for label, points in (("pixels", content.pixel_roc), ("images", content.image_roc))
        if len(points) > 1
    ]
    areas = {"pixels": record.metrics.get("auroc_px"), "images": record.metrics.get("auroc_sp")}
    roc_names = [label + _area(areas[label]) for label, _ in roc_lines]
    pro_title = f"PRO curve of {name}{_area(record.metrics.get('aupro'))}"
    ks = sorted({row.k for row in series.rows})
    k_lines = [_line(metric, series.rows, ks, metric, name) for metric in ("auroc_px", "auroc_sp", "aupro")]
    k_lines = [line for line in k_lines if line.values]
    section: dict[str, Any] = {
        "name": name,
        "anchor": anchor,
        "summary": _summary(record),
        "missing": content.missing,
        "shown": content.shown,
        "links": links,
        "references": [
            {**reference, "href": _reference_picture(links, reference["sha256"])} for reference in record.references
        ],
        "roc": None,
        "roc_names": roc_names,
        "pro": None,
        "histogram": None,
        "thresholds": {},
        "against_k": None,
        "k_names": [line.label for line in k_lines],
    }
    if roc_lines:
        description = f"ROC curves of {name}: {', '.join(roc_names)}"
        section["roc"] = charts.curves(roc_lines, 1.0, _CURVE_AXES, shaded=False, description=description)
    if len(content.pro) > 1:
        axes = (_CURVE_AXES[0], "overlap, %")
        section["pro"] = charts.curves([("", content.pro)], _AUPRO_LIMIT, axes, shaded=True, description=pro_title)
    if content.histogram:
        counts = f"{sum(content.histogram.normal)} normal and {sum(content.histogram.anomalous)} anomalous images"
        section["histogram"] = charts.histogram(content.histogram, f"Image scores of {name}, {counts}")
        section["thresholds"] = content.histogram.thresholds
    if len(ks) > 1 and k_lines:
        section["against_k"] = charts.against_k(k_lines, ks, f"{name} against k: {_said(k_lines, ks)}")
    return section


def _area(value: float | None) -> str:
    return "" if value is None else f", area {percent(value)}"


def _reference_picture(links: _Links, sha256: str) -> str | None:
    try:
        return links.image(sha256) if pictures.image_path(links.results_dir, sha256).exists() else None
    except InputError:  # what a record calls a digest may be anything
        return None


def _summary(record: Record) -> str:
    counts = record.counts
    parts = []
    if {"test", "test_good", "test_anomalous"} <= counts.keys():
        parts.append(
            f"{counts['test']} test images: {counts['test_good']} normal, {counts['test_anomalous']} anomalous"
        )
    defects = counts.get("defects")
    if isinstance(defects, Mapping):
        parts.append(", ".join(f"{name} {count}" for name, count in defects.items() if name != "good"))
    return ". ".join(filter(None, parts))


def _provenance(run: Run) -> Iterator[tuple[str, str]]:
    record = run.any
    found = record.provenance
    git = found.get("git")
    if isinstance(git, Mapping):
        yield "code", f"{git.get('commit')}{', changed since' if git.get('dirty') else ''}"
    elif git:
        yield "code", str(git)
    yield "weights, sha256", str(found.get("weights_sha256", "–"))
    yield "dataset, digest", str(found.get("dataset_digest", "–"))
    for name in ("versions", "machine"):
        value = found.get(name)
        yield (
            name,
            ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value),
        )
    seconds = sum(sum(one.timing.values()) for one in run.records.values())
    yield "computed in", f"{seconds:.1f} s over {len(run.records)} classes"


def _lines(text: str) -> Markup:
    """Text of several lines: each as it is, but for what a page only shows."""
    return Markup("\n").join(printable(line) for line in text.split("\n"))


def _verdict(picture: pictures.Picture) -> str:
    """How an image is ranked, in words."""
    if picture.error is None:
        return "nothing to rank against"
    others, side = ("normal", "below") if picture.label else ("anomalous", "above")
    if picture.error == 0:
        return "ranked rightly"
    return f"{side} {100 * picture.error:.0f} % of the {others}"


def _finalize(value: Any) -> Any:
    """Text on one line, without what no page can show."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value
    return printable(value)


@cache
def _environment() -> Environment:
    folder = files("winclip_bench.report.page") / "templates"
    sources = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.is_file()}
    style, script = sources["page.css"], sources["page.js"]
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "short": lambda value: f"{value:.3g}",
        "verdict": _verdict,
        "key": charts.key,
    }
    environment.globals |= {
        "style": Markup(style),
        "script": Markup(script),
        "style_sha256": _digest(style),
        "script_sha256": _digest(script),
    }
    return environment


def _digest(text: str) -> str:
    """As a content security policy names what it allows."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _render(template: str, **content: Any) -> str:
    return _environment().get_template(template).render(content)
