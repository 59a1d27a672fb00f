"""Tables: one per run with a row per class and their mean, and an overview of all runs, from records alone.

``write_tables`` puts a run's table into ``<results_dir>/tables`` as markdown, CSV and LaTeX, ``write_seeds_tables`` the
same with mean ± standard deviation over the seeds of otherwise equal runs, ``write_overview`` the means of all runs
into ``overview.md``. Numbers are percent, with one decimal, or in full in CSV. A missing cell is
``–``, never 0. The label of the mean says over how many classes it is where some have failed; a mean with ``*`` leaves
out classes in which the metric is undefined, and a note below the table names them.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from tabulate import tabulate

from winclip_bench.errors import printable
from winclip_bench.records import Record, write_atomically
from winclip_bench.report.spread import Group, class_spread, drawn_by_seed, mean_spread, references_file, seed_groups

METRICS = ("auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp")
COLUMNS = ("objects", *METRICS)
MISSING = "–"
UNTRAINED = (
    "A backbone with untrained weights shows that the harness works; its numbers say nothing about WinCLIP itself."
)
DEMO = "The demo dataset is made of generated images; numbers on it say nothing about WinCLIP itself."
DEMO_MODEL = (
    "The demo's backbone is a little model of our own, trained on generated images; its numbers are about itself, "
    "not about WinCLIP."
)

_METHODS = {  # zero-shot, few-shot
    "winclip": ("WinCLIP", "WinCLIP+"),
    "defect_types": ("Defect types", "Defect types"),
    "prototypes": ("Prototypes", "Prototypes"),
    "linear_head": ("Linear head", "Linear head"),
}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "±": r"$\pm$", "−": "$-$", "·": r"\textperiodcentered{}", "[": "{[}", "]": "{]}",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Label and values of one row.

    values      one per metric of METRICS, in 0–1; None where missing
    stds        their standard deviations over seeds, None where there are none; None for a table of one run
    incomplete  names of the metrics whose value leaves out classes; only in the row of the mean
    """

    label: str
    values: tuple[float | None, ...]
    incomplete: frozenset[str] = frozenset()
    stds: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Table:
    """One run, or the runs of several seeds: what it is, a row per class sorted by name, their mean, and what has to be
    said about them.

    run_id   of several seeds, what their runs have in common, hashed

    Text is as it came from the records; the writers escape it.
    """

    run_id: str
    slug: str
    heading: str
    remarks: tuple[str, ...]
    rows: tuple[Row, ...]
    mean: Row
    notes: tuple[str, ...]


def table(
    records: Sequence[Record], expected: Sequence[str] | None = None, reasons: Mapping[str, str] | None = None
) -> Table:
    """The table of one run.

    records   finished categories, all of one run
    expected  names of all categories that the run should have; by default what the records themselves say
    reasons   category -> why it has no record

    Raises ValueError for no records, records of several runs, or two of one category.
    """
    by_name = {record.category: record for record in records}
    runs = {(record.dataset, record.run_id) for record in records}
    if len(runs) != 1 or len(by_name) != len(records):
        raise ValueError(f"a table needs the records of one run, each category once, not {sorted(runs)}")
    names = sorted(by_name.keys() | set(_categories(records) if expected is None else expected))
    failed = [name for name in names if name not in by_name]
    rows = tuple(_class_row(name, by_name.get(name)) for name in names)
    record = by_name[min(by_name)]
    total = len(set(names) | set(_categories(records)))
    mean = _mean_row(_over("mean", len(by_name), total), by_name.values())
    return Table(
        run_id=record.run_id,
        slug=_slug(record, f"seed{record.config['seed']}" if drawn_by_seed(record) else ""),
        heading=" · ".join([*_identity(record, draw_label(record)), f"run {record.run_id}"]),
        remarks=tuple(remarks(record)),
        rows=rows,
        mean=mean,
        notes=(
            *(f"{name} has no record: {(reasons or {}).get(name, 'not finished')}" for name in failed),
            *_undefined_notes(by_name, mean.incomplete),
            *_warning_notes(by_name),
        ),
    )


def seeds_table(group: Group) -> Table:
    """The table of several seeds: each cell over the seeds, that of the mean over the seeds' means over the classes."""
    seeds = len(group.runs)
    finished = {name: [run[name] for run in group.runs.values() if name in run] for name in group.categories}
    by_name = {name: records[0] for name, records in finished.items()}
    record = by_name[min(by_name)]
    total = len({*by_name, *_categories(by_name.values())})
    means = {metric: mean_spread(group, metric) for metric in METRICS}
    mean = Row(
        _over("mean", len(group.in_all_runs), total),
        tuple(over_seeds.mean for over_seeds, _ in means.values()),
        frozenset(metric for metric, (_, incomplete) in means.items() if incomplete),
        tuple(over_seeds.std for over_seeds, _ in means.values()),
    )
    rows = []
    for name, records in finished.items():
        cells = [class_spread(group, name, metric) for metric in METRICS]
        label = name if len(records) == seeds else f"{name} ({len(records)} of {seeds} seeds)"
        rows.append(Row(label, tuple(cell.mean for cell in cells), stds=tuple(cell.std for cell in cells)))
    return Table(
        run_id=group.key,
        slug=_slug(record, "seeds"),
        heading=" · ".join(_identity(record, f"{seeds} seeds")),
        remarks=(
            f"Mean ± sample standard deviation (n − 1) over the seeds {', '.join(map(str, group.runs))}; in the row "
            f"mean, of the means that each seed has over the classes.",
            *remarks(record),
        ),
        rows=tuple(rows),
        mean=mean,
        notes=(*_undefined_notes(by_name, mean.incomplete), *_warning_notes(by_name)),
    )


def to_markdown(content: Table) -> str:
    """The table as GitHub's markdown: heading, remarks, table, notes."""
    cells = [
        [markdown(row.label), *(_cell(row, index) + _mark(row, index) for index in range(len(METRICS)))]
        for row in (*content.rows, content.mean)
    ]
    parts = [f"## {markdown(content.heading)}", *map(markdown, content.remarks), grid(COLUMNS, cells, texts=1)]
    if content.notes:
        parts.append("\n".join(f"- {markdown(note)}" for note in content.notes))
    return "\n\n".join(parts) + "\n"


def to_csv(content: Table) -> str:
    """The rows and the mean as CSV, percent in full; pandas reads it with ``na_values="–"``.

    Standard deviations over seeds have columns of their own, each behind its metric's.
    Labels that a spreadsheet would take for a formula begin with an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = content.mean.stds is not None
    head = [name for metric in METRICS for name in (metric, f"{metric}_std")] if several else METRICS
    writer.writerow([COLUMNS[0], *head])
    for row in (*content.rows, content.mean):
        numbers = [n for pair in zip(row.values, row.stds, strict=True) for n in pair] if row.stds else row.values
        values = (MISSING if number is None else repr(100 * number) for number in numbers)
        writer.writerow([spreadsheet(row.label), *values])
    return text.getvalue()


def to_latex(content: Table) -> str:
    """The table for a paper; needs the package booktabs and UTF-8 as input encoding."""

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\"

    def body(row: Row) -> str:
        marks = ["$^{*}$" if _mark(row, index) else "" for index in range(len(METRICS))]
        return line([_latex(row.label), *(_latex(_cell(row, index)) + mark for index, mark in enumerate(marks))])

    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_latex(' '.join((content.heading + '.', *content.remarks)))}}}",
            rf"  \begin{{tabular}}{{l{'r' * len(METRICS)}}}",
            r"    \toprule",
            "    " + line(map(_latex, COLUMNS)),
            r"    \midrule",
            *(f"    {body(row)}" for row in content.rows),
            r"    \midrule",
            f"    {body(content.mean)}",
            r"    \bottomrule",
            r"  \end{tabular}",
            *(rf"  \par\footnotesize {_latex(note)}" for note in content.notes),
            r"\end{table}",
            "",
        ]
    )


def write_tables(
    results_dir: Path,
    records: Sequence[Record],
    expected: Sequence[str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a run's table as ``tables/<slug>-<run_id>.md``, ``.csv`` and ``.tex``; arguments as for ``table``.

    Returns the three paths. Raises InputError if the file system refuses.
    """
    return _write(results_dir, table(records, expected, reasons))


def write_seeds_tables(
    results_dir: Path, records: Iterable[Record], run_ids: Collection[str] | None = None
) -> list[Path]:
    """Write a table over all seeds for each group of runs that differ in nothing else, as ``write_tables`` does.

    run_ids  only the groups that one of these runs is in

    The names of the files stay the same when seeds are added. Returns no path where no run has another seed.
    """
    paths = []
    for group in seed_groups(records):
        of_group = {record.run_id for run in group.runs.values() for record in run.values()}
        if run_ids is None or not of_group.isdisjoint(run_ids):
            paths += _write(results_dir, seeds_table(group))
    return paths


def _write(results_dir: Path, content: Table) -> list[Path]:
    writers: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
    paths = []
    for ending, render in writers.items():
        paths.append(Path(results_dir) / "tables" / f"{content.slug}-{content.run_id}.{ending}")
        write_atomically(paths[-1], render(content).encode())
    return paths


def overview(records: Iterable[Record]) -> str:
    """Markdown with the means of many runs, one row each, sorted by dataset, method, backbone, k and seed.

    Runs that differ in nothing but the seed have a second table, with a row of mean ± standard deviation for each such
    group.
    """
    runs = [list(group) for _, group in groupby(sorted(records, key=_run_key), key=_run_key)]
    if not runs:
        return "## Overview\n\nNo finished categories yet.\n"
    said: dict[str, None] = {}  # in the order of their first appearance
    cells = []
    for run in runs:
        first = run[0]
        said.update(dict.fromkeys(remarks(first)))
        total = len({record.category for record in run} | set(_categories(run)))
        seed = str(first.config["seed"]) if drawn_by_seed(first) else MISSING
        classes = _over("", len(run), total) or str(total)
        cells.append([*_overview_row(first, seed, classes, _mean_row("", run)), first.run_id])
    grouped = []
    for group in seed_groups(record for run in runs for record in run):
        first = next(iter(next(iter(group.runs.values())).values()))
        total = len({*group.categories, *_categories([first])})
        classes = _over("", len(group.in_all_runs), total) or str(total)
        grouped.append(_overview_row(first, ", ".join(map(str, group.runs)), classes, seeds_table(group).mean))
    head = ("dataset", "method", "backbone", "k", "seed", "prompts", "protocol", "scales", "precision", "classes")
    parts = ["## Overview", grid((*head, *METRICS, "run"), cells, texts=len(head))]
    if grouped:
        parts += [
            "### Mean ± sample standard deviation over seeds",
            grid((*head, *METRICS), grouped, texts=len(head)),
        ]
    legend = [*said]
    if any("\\*" in cell for row in (*cells, *grouped) for cell in row[len(head) : len(head) + len(METRICS)]):
        legend.append("* leaves out classes in which the metric is undefined; the run's own table names them.")
    if legend:
        parts.append("\n".join(f"- {markdown(line)}" for line in legend))
    return "\n\n".join(parts) + "\n"


def write_overview(results_dir: Path, records: Iterable[Record]) -> Path:
    """Write ``tables/overview.md`` over these records; returns its path."""
    path = Path(results_dir) / "tables" / "overview.md"
    write_atomically(path, overview(records).encode())
    return path


def _categories(records: Iterable[Record]) -> list[str]:
    """Names of the categories that the records' own configurations ask for; none where they ask for all there are."""
    return [str(name) for record in records for name in record.config["dataset"].get("categories") or ()]


def _class_row(name: str, record: Record | None) -> Row:
    return Row(name, tuple(record.metrics.get(metric) if record else None for metric in METRICS))


def _mean_row(label: str, records: Iterable[Record]) -> Row:
    columns = list(zip(*(_class_row("", record).values for record in records), strict=True))
    defined = [[value for value in column if value is not None] for column in columns]
    return Row(
        label,
        tuple(fmean(values) if values else None for values in defined),
        frozenset(
            metric
            for metric, values, column in zip(METRICS, defined, columns, strict=True)
            if 0 < len(values) < len(column)
        ),
    )


def _over(label: str, finished: int, total: int) -> str:
    """The label, with how many classes of how many where that is not all; the empty label gives only that.

    >>> _over("mean", 2, 3), _over("", 2, 3), _over("mean", 3, 3)
    ('mean (2 of 3)', '2 of 3', 'mean')
    """
    if finished == total:
        return label
    return f"{label} ({finished} of {total})" if label else f"{finished} of {total}"


def _undefined_notes(by_name: Mapping[str, Record], incomplete: frozenset[str]) -> list[str]:
    """One sentence per reason and set of metrics, with all classes that it holds for."""
    classes: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for name in sorted(by_name):
        record = by_name[name]
        metrics: dict[str, list[str]] = {}
        for metric in METRICS:
            if record.metrics.get(metric) is None:
                metrics.setdefault(record.undefined.get(metric, "not in the record"), []).append(metric)
        for reason, same in metrics.items():
            classes.setdefault((tuple(same), reason), []).append(name)
    notes = []
    for (undefined, reason), names in classes.items():
        mark = "* " if incomplete.intersection(undefined) else ""
        notes.append(f"{mark}{', '.join(undefined)} undefined in {', '.join(names)}: {reason}")
    return notes


def _warning_notes(by_name: Mapping[str, Record]) -> list[str]:
    classes: dict[str, list[str]] = {}
    for name in sorted(by_name):
        for warning in by_name[name].warnings:
            classes.setdefault(warning, []).append(name)
    return [f"{', '.join(names)}: {warning}" for warning, names in classes.items()]


def _overview_row(record: Record, seed: str, classes: str, mean: Row) -> list[str]:
    """What the run of a record is, and its means."""
    config = record.config
    texts = (
        record.dataset,
        method_label(record),
        backbone_label(record),
        str(config["k_shot"]),
        seed,
        config["prompts"]["name"],
        config["protocol"]["name"],
        scales_label(record),
        config["runtime"]["precision"],
        classes,
    )
    return [*map(markdown, texts), *(_cell(mean, index) + _mark(mean, index) for index in range(len(METRICS)))]


def draw_label(record: Record) -> str:
    """Which references a run has, besides how many; empty for none."""
    if file := references_file(record):
        return f"references {Path(file).name}"
    if drawn_by_seed(record):
        return f"seed {record.config['seed']}"
    return "first images" if record.config["k_shot"] > 0 else ""


def _identity(record: Record, draw: str) -> list[str]:
    config = record.config
    return [
        record.dataset,
        method_label(record),
        backbone_label(record),
        f"k = {config['k_shot']}",
        *([draw] if draw else []),
        f"prompts {config['prompts']['name']}",
        f"protocol {config['protocol']['name']}",
        f"scales {scales_label(record)}",
        config["runtime"]["precision"],
    ]


def method_label(record: Record) -> str:
    """The method as papers call it, zero-shot or few-shot."""
    name = record.config["method"]["name"]
    return _METHODS.get(name, (name, name))[record.config["k_shot"] > 0]


def backbone_label(record: Record) -> str:
    """The backbone and its weights; of a checkpoint file its name says enough."""
    backbone = record.config["backbone"]
    return f"{backbone['name']} ({Path(backbone['pretrained']).name})"


def scales_label(record: Record) -> str:
    """The window sides, in patches."""
    return ", ".join(map(str, record.config["scales"])) or MISSING


def remarks(record: Record) -> list[str]:
    """What has to be said about any number of a run."""
    untrained = record.config["backbone"]["pretrained"] == "untrained"
    demo = not {"demo", "demo_pooled"}.isdisjoint((record.dataset, record.config["dataset"]["name"]))
    shipped = record.config["backbone"]["pretrained"] == "shipped"
    return [UNTRAINED] * untrained + [DEMO_MODEL] * shipped + [DEMO] * demo


def _slug(record: Record, draw: str) -> str:
    """Readable beginning of the names of a run's tables; the run_id behind it makes them unique."""
    config = record.config
    parts = [record.dataset, config["method"]["name"], config["backbone"]["name"], f"k{config['k_shot']}", draw]
    text = "-".join(filter(None, parts))
    return re.sub(r"[^\w.+-]+", "_", text).lstrip(".-").encode()[:150].decode(errors="ignore")


def _run_key(record: Record) -> tuple[Any, ...]:
    config = record.config
    names = (record.dataset, config["method"]["name"], config["backbone"]["name"])
    return (*names, config["k_shot"], config["seed"], record.run_id)


def _cell(row: Row, index: int) -> str:
    value, std = row.values[index], row.stds[index] if row.stds else None
    if value is None:
        return MISSING
    return f"{100 * value:.1f}" if std is None else f"{100 * value:.1f} ± {100 * std:.1f}"


def _mark(row: Row, index: int) -> str:
    return r"\*" if METRICS[index] in row.incomplete else ""


def grid(head: Sequence[str], cells: Sequence[Sequence[str]], texts: int) -> str:
    """A markdown table whose first ``texts`` columns are text and whose others are numbers."""
    align = ["left"] * texts + ["right"] * (len(head) - texts)
    return tabulate(cells, head, tablefmt="pipe", disable_numparse=True, colalign=align)


def markdown(text: str) -> str:
    r"""Text that markdown shows as it is, on one line.

    >>> markdown("metal_nut <b>`|*")
    'metal_nut &lt;b&gt;\\`\\|\\*'
    """
    text = re.sub(r"[\\`*|~\[\]]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def spreadsheet(text: str) -> str:
    """Text for a cell of CSV, on one line; what a spreadsheet would take for a formula begins with an apostrophe.

    >>> spreadsheet("+ templates"), spreadsheet("tile")
    ("'+ templates", 'tile')
    """
    text = printable(text)
    return "'" + text if text.startswith(("=", "+", "-", "@")) else text


def _latex(text: str) -> str:
    r"""Text that LaTeX sets as it is.

    >>> print(_latex("metal_nut 100%"))
    metal\_nut 100\%
    """
    return "".join(_LATEX.get(character, character) for character in printable(text))
