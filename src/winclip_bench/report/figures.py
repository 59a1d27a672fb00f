"""Figures for papers, as PDF, PNG and SVG, from what a results folder holds: no run, no torch.

``write_figures`` puts into ``<results_dir>/figures``, for as many as there are data::

    k-<dataset>-<metric>                   metric against k, a line per configuration, a band of ± one standard
                                           deviation over seeds
    ablation-<dataset>-k<k>-<metric>       a bar per configuration of one k, with the same deviation
    claim-<claim>-<dataset>-k<k>-<metric>  measured − claimed of every class, with its interval
    pictures-<run_id>                      image, ground truth and anomaly map of some test images, a row each
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from winclip_bench import pictures
from winclip_bench.errors import InputError, printable
from winclip_bench.records import Record, write_atomically
from winclip_bench.report.page.content import Row, Series, series_of
from winclip_bench.report.tables import remarks

FORMATS = ("pdf", "png", "svg")
# Okabe and Ito's colours, which colour-blind people tell apart; yellow is left out, it is too light for a line.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = "osD^vP*"
_COLUMN = 3.3  # inches: one column of a two-column page
_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a category may have a dollar in its name
    "pdf.fonttype": 42,  # fonts as such, which journals ask for
    "svg.hashsalt": "winclip-bench",
    "savefig.dpi": 300,
    "figure.constrained_layout.use": True,
}
_NO_DATE: Mapping[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
_NAMES = {
    "auroc_px": "pixel AUROC",
    "f1_px": "pixel F1-max",
    "ap_px": "pixel AP",
    "aupro": "AUPRO",
    "auroc_sp": "image AUROC",
    "f1_sp": "image F1-max",
    "ap_sp": "image AP",
}


def write_figures(
    results_dir: Path,
    records: Sequence[Record],
    *,
    metrics: Sequence[str] = ("auroc_sp", "auroc_px", "aupro"),
    formats: Sequence[str] = ("pdf", "png"),
    rows: int = 6,
) -> list[Path]:
    """Write all figures that the records have something for, and return their paths.

    metrics   of `tables.METRICS`
    formats   of FORMATS
    rows      of the figures of pictures, at most; 0 makes none

    Raises InputError for pictures or claims that are not usable, and if the file system refuses.
    """
    found = series_of(records)
    with mpl.rc_context(rc=_STYLE):
        made: dict[str, Figure] = {}
        for metric in metrics:
            for dataset in sorted({series.dataset for series in found}):
                of_dataset = [series for series in found if series.dataset == dataset]
                made |= _named(f"k-{dataset}-{metric}", against_k(of_dataset, metric))
                for k in sorted({row.k for series in of_dataset for row in series.rows}):
                    same_k = [row for series in of_dataset for row in series.rows if row.k == k]
                    made |= _named(f"ablation-{dataset}-k{k}-{metric}", ablation(same_k, metric))
        for name, differences in _claimed(results_dir).items():
            if name.rpartition("-")[2] in metrics:
                made |= _named(f"claim-{name}", claim_differences(differences))
        for run_id, own in _runs(records).items() if rows else ():
            made |= _named(f"pictures-{run_id}", qualitative(results_dir, own, rows))
        return [_save(results_dir, name, figure, ending) for name, figure in made.items() for ending in formats]


def against_k(found: Sequence[Series], metric: str) -> Figure | None:
    """The mean over classes against k, a line per configuration; None where no configuration has two values of k.

    A band is ± one sample standard deviation over seeds. One without references (k = 0) has no band: nothing is drawn.
    """
    lines = [(label, points) for label, points in _lines(found, metric) if len(points) > 1]
    if not lines:
        return None
    figure = Figure((_COLUMN, 2.4 + 0.14 * len(lines)))
    axes = figure.subplots()
    ticks = sorted({k for _, points in lines for k, _, _ in points})
    place = {k: number for number, k in enumerate(ticks)}  # 0, 1, 2, 4, 8 at equal steps
    for number, (label, points) in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        x = [place[k] for k, _, _ in points]
        y, std = (100 * np.array(values) for values in list(zip(*points, strict=True))[1:])
        axes.plot(x, y, color=colour, marker=_MARKERS[number % len(_MARKERS)], markersize=4, label=label)
        axes.fill_between(x, y - std, y + std, color=colour, alpha=0.2, linewidth=0)
    axes.set_xticks(range(len(ticks)), [str(k) for k in ticks])
    axes.set_xlabel("reference images k")
    axes.set_ylabel(f"{_NAMES[metric]} (%)")
    if len(lines) > 1:
        figure.legend(loc="outside upper left")
    _say(figure, [series.any for series in found])
    return figure


def ablation(rows: Sequence[Row], metric: str) -> Figure | None:
    """A bar per configuration of one dataset and k: the mean over classes, and ± one standard deviation over seeds.

    None for fewer than two configurations. Bars begin at 0, so that their lengths can be compared.
    """
    found = [(label, mean, std) for label, (_, mean, std) in _bars(rows, metric)]
    if len(found) < 2:
        return None
    figure = Figure((_COLUMN, 0.7 + 0.34 * len(found)))
    axes = figure.subplots()
    means, stds = 100 * np.array([mean for _, mean, _ in found]), 100 * np.array([std for _, _, std in found])
    axes.barh(range(len(found)), means, color=COLOURS[0], height=0.4)
    drawn = np.flatnonzero(stds)
    axes.errorbar(means[drawn], drawn, xerr=stds[drawn], fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    for place, (value, std) in enumerate(zip(means, stds, strict=True)):
        axes.text(value + std + 1, place, f"{value:.1f}", va="center", fontsize=7)
        axes.text(1, place - 0.26, found[place][0], va="bottom", fontsize=7)  # of any length, unlike at the axis
    axes.set_yticks([])
    axes.set_ylim(len(found) - 0.5, -0.75)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{_NAMES[metric]} (%), k = {rows[0].k}")
    _say(figure, [row.any for row in rows])
    return figure


def claim_differences(claims: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Measured − claimed of every class in points, with the interval of the comparison; None without any class."""
    found = sorted((claim for claim in claims if claim["object"] != "mean"), key=lambda claim: -claim["difference"])
    if not found:
        return None
    figure = Figure((_COLUMN, 0.9 + 0.18 * len(found)))
    axes = figure.subplots()
    for place, claim in enumerate(found):
        value = claim["difference"]
        colour = COLOURS[0] if value >= 0 else COLOURS[1]
        axes.plot([0, value], [place, place], color=colour, linewidth=1.5)
        axes.plot(value, place, color=colour, marker="o" if value >= 0 else "s", markersize=4)
        if claim["interval_low"] is not None and claim["interval_high"] is not None:
            ends = [claim["interval_low"] - claim["claimed"], claim["interval_high"] - claim["claimed"]]
            axes.plot(ends, [place, place], color="black", linewidth=0.7, marker="|", markersize=5)
    axes.set_yticks(range(len(found)), [_text(claim["object"]) for claim in found])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    first = found[0]
    metric = _NAMES.get(first["metric"], first["metric"])
    axes.set_xlabel(f"{metric}: measured − claimed (points)")
    axes.set_title(_text(f"{first['claim']}, {first['dataset']}, k = {first['k_shot']}"), fontsize=8)
    return figure


def qualitative(results_dir: Path, records: Sequence[Record], rows: int) -> Figure | None:
    """Image, ground truth and anomaly map of anomalous test images, a row each; None where no pictures were kept.

    They are the first of each category in the gallery's order, which begins with the worst: not chosen to please. All
    maps of one category have one colour scale.
    """
    shown: list[tuple[Record, int, pictures.Picture]] = []
    for record in records:
        kept = pictures.read(results_dir, record.run_id, record.category)
        for number, picture in enumerate(kept.pictures if kept else ()):
            if picture.label and picture.low is not None and _exist(results_dir, record, number, picture):
                shown.append((record, number, picture))
    shown = _from_every_category(shown)[:rows]
    if not shown:
        return None
    figure = Figure((_COLUMN, _COLUMN / 3 * len(shown) + 0.4))
    grid = figure.subplots(len(shown), 3, squeeze=False)
    for axes, (record, number, picture) in zip(grid, shown, strict=True):
        image = Image.open(pictures.image_path(results_dir, picture.sha256)).convert("RGB")
        colours = Image.open(pictures.map_path(results_dir, record.run_id, record.category, number, own=False))
        values = colours.convert("RGB").resize(image.size, Image.Resampling.BILINEAR)
        for panel, content in zip(axes, (image, image, values), strict=True):
            panel.imshow(np.asarray(content))
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(visible=False)
            panel.spines[:].set_visible(False)
        _draw_outline(axes[1], picture, image.size)
        axes[0].set_ylabel(_text(f"{record.category}\n{picture.defect}"), fontsize=7)
    for panel, title in zip(grid[0], ("image", "ground truth", "anomaly map"), strict=True):
        panel.set_title(title, fontsize=8)
    _say(figure, records)
    return figure


def _exist(results_dir: Path, record: Record, number: int, picture: pictures.Picture) -> bool:
    return (
        pictures.image_path(results_dir, picture.sha256).exists()
        and pictures.map_path(results_dir, record.run_id, record.category, number, own=False).exists()
    )


def _from_every_category(
    shown: Iterable[tuple[Record, int, pictures.Picture]],
) -> list[tuple[Record, int, pictures.Picture]]:
    """The first of every category, then the second of every category, and so on."""
    seen: dict[str, int] = {}
    ranked = []
    for one in shown:
        seen[one[0].category] = rank = seen.get(one[0].category, -1) + 1
        ranked.append((rank, one))
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def _draw_outline(axes: Axes, picture: pictures.Picture, size: tuple[int, int]) -> None:
    """The border of the ground truth over an image of ``size`` (width, height); the path is in pixels of its mask."""
    height, width = picture.size
    for part in re.findall(r"M([^MZ]+)Z", picture.outline):
        corners = np.array(part.split(), float).reshape(-1, 2) * (size[0] / width, size[1] / height) - 0.5
        closed = np.vstack([corners, corners[:1]])
        for colour, thickness in (("black", 1.8), ("white", 0.9)):  # seen on any ground
            axes.plot(*closed.T, color=colour, linewidth=thickness)


def _lines(found: Sequence[Series], metric: str) -> list[tuple[str, list[tuple[int, float, float]]]]:
    """Label and (k, mean, std) of every series; of several rows of one k, such as other references, the first."""
    names = _telling_apart([series.rows[0] for series in found])
    lines = []
    for series, name in zip(found, names, strict=True):
        points: dict[int, tuple[int, float, float]] = {}
        for row in series.rows:
            if (cell := row.means[metric]).mean is not None:
                points.setdefault(row.k, (row.k, cell.mean, cell.std or 0.0))
        lines.append((name or series.rows[-1].labels["method"], list(points.values())))
    return lines


def _bars(rows: Sequence[Row], metric: str) -> list[tuple[str, tuple[int, float, float]]]:
    cells = [(name, row.means[metric]) for name, row in zip(_telling_apart(rows), rows, strict=True)]
    return [(name, (0, cell.mean, cell.std or 0.0)) for name, cell in cells if cell.mean is not None]


def _telling_apart(rows: Sequence[Row]) -> list[str]:
    """A label for each row: the settings in which they differ, by value, and what else differs by name and value."""
    labels = [row.labels for row in rows]
    differing = [key for key in labels[0] if len({label[key] for label in labels}) > 1] if rows else []
    texts = [
        " · ".join(f"scales {label[key]}" if key == "scales" else label[key] for key in differing) for label in labels
    ]
    if len(set(texts)) < len(texts):  # an ablation of a setting that has no column of its own
        flat = [dict(_flat(row.any.config)) for row in rows]
        keys = sorted({key for config in flat for key in config if not key.startswith(_NO_LABEL)})
        odd = [key for key in keys if len({json.dumps(config.get(key)) for config in flat}) > 1]
        extra = [" · ".join(f"{key.rpartition('.')[2]} {config.get(key)}" for key in odd) for config in flat]
        texts = [" · ".join(filter(None, pair)) for pair in zip(texts, extra, strict=True)]
    return [_text(text) for text in texts]


_NO_LABEL = (
    "dataset.", "backbone.", "prompts.", "protocol.name", "method.name", "scales", "k_shot", "seed", "results_dir",
    "save_maps", "pictures", "force", "tracker.", "runtime.", "references.",
)  # fmt: skip


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _claimed(results_dir: Path) -> dict[str, list[Mapping[str, Any]]]:
    """The numbers of classes that a claim is compared with, by source, dataset, k and metric; suspect ones left out."""
    path = Path(results_dir) / "claims" / "claims.json"
    found: dict[str, list[Mapping[str, Any]]] = {}
    try:
        for claim in json.loads(path.read_bytes())["claims"]:
            if isinstance(claim["difference"], float) and not claim["suspect"]:
                name = f"{claim['claim']}-{claim['dataset']}-k{claim['k_shot']}-{claim['metric']}"
                found.setdefault(name, []).append(claim)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not usable: make it again with python -m winclip_bench.claims") from error
    return found


def _runs(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.run_id, []).append(record)
    return found


def _named(name: str, figure: Figure | None) -> dict[str, Figure]:
    return {} if figure is None else {re.sub(r"[^\w.+@-]+", "_", name)[:150]: figure}


def _text(text: str) -> str:
    """Text from a record, on lines that can be shown."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _say(figure: Figure, records: Iterable[Record]) -> None:
    """Under the figure what has to be said about its numbers: that they are the demo's, or of untrained weights."""
    if any(map(remarks, records)):
        line = "of the demo or of untrained weights: not about WinCLIP"
        figure.text(0.99, 0.0, line, ha="right", va="top", fontsize=5, color="#555555")


def _save(results_dir: Path, name: str, figure: Figure, ending: str) -> Path:
    path = Path(results_dir) / "figures" / f"{name}.{ending}"

    def save(file: BinaryIO) -> None:
        figure.savefig(file, format=ending, metadata=_NO_DATE[ending], bbox_inches="tight", pad_inches=0.03)

    write_atomically(path, save)
    return path
