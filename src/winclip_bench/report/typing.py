"""Defect types from records alone: results per category, confusion matrices, and the stages side by side.

A record of a method that names defects has a section ``typing``::

    stage       single | two | defects_only
    type        classes, confusion, per_class, undefined, confusions: as `metrics.classification.section` makes them
    binary      the same for normal and anomalous; None where only anomalous images were looked at
    threshold   rule, value (None for infinity), inclusive, promised, interval, note; None where nothing was cut
    oracle      rule -> {"threshold", "binary"}, of thresholds chosen on the test labels; may be empty

and its ``metrics`` have ``accuracy_type``, ``precision_macro_type``, ``recall_macro_type``, ``f1_macro_type``, the same
with ``_binary``, and ``auroc_sp``. Those that an oracle threshold decided begin with ``oracle_`` and are shown under
that name only. Numbers are percent, with one decimal; what is missing is ``–``.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from winclip_bench.metrics import LABEL_METRICS
from winclip_bench.records import Record, write_atomically
from winclip_bench.report.tables import MISSING, backbone_label, grid, markdown, method_label, remarks

STAGES = ("single", "two", "defects_only")
_HEADS = ("Accuracy", "Mean precision", "Mean recall", "Mean F1")


def section(record: Record) -> dict[str, Any] | None:
    """The record's section about types, None where it has none."""
    return dict(record.typing) if record.typing is not None else None


def results(record: Record) -> str:
    """Markdown about one category: binary and multi-class side by side, per class, confusion matrix and list.

    Raises ValueError for a record that names no defects.
    """
    found = section(record)
    if found is None:
        raise ValueError(f"the record of {record.category} names no types of defect")
    oracle = _decided_by_oracle(found)
    prefix = "oracle_" if oracle else ""
    title = (record.dataset, record.category, method_label(record), backbone_label(record), f"run {record.run_id}")
    overall = [
        [
            head,
            _percent(record.metrics.get(f"{prefix}{metric}_binary")),
            _percent(record.metrics.get(f"{prefix}{metric}_type")),
        ]
        for head, metric in zip(_HEADS, LABEL_METRICS, strict=True)
    ]
    overall.append(["ROC AUC", _percent(record.metrics.get("auroc_sp")), MISSING])
    parts = [
        f"### {markdown(' · '.join(title))}",
        *map(markdown, remarks(record)),
        *(["**Decided by an oracle: its threshold was chosen on the test labels. This is no result.**"] * oracle),
        _threshold(found["threshold"]),
        grid(("Metric", "Binary (normal, anomalous)", "Multi-class (all classes)"), overall, texts=1),
        _per_class(found["type"]),
        _confusion(found["type"]),
        _confusions(found["type"]),
        *([_confusion(found["binary"])] if found["binary"] else []),
        *([_oracles(found["oracle"])] if found["oracle"] else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def stages(records: Sequence[Record]) -> str:
    """Markdown with one row per record that names defects: the stages compared, category by category.

    Rows with an oracle threshold are left out, and a line says how many. ``defects_only`` is over the anomalous images
    alone, so its numbers compare with those of another stage only with that in mind.
    """
    typed = [(record, found) for record in records if (found := section(record)) is not None]
    shown = sorted(
        ((record, found) for record, found in typed if not _decided_by_oracle(found)),
        key=lambda pair: (pair[0].dataset, pair[0].category, STAGES.index(pair[1]["stage"]), pair[0].run_id),
    )
    if not typed:
        return "## Stages\n\nNo finished categories whose defects were named yet.\n"
    cells = [
        [
            *map(markdown, (record.dataset, record.category, found["stage"], _first_stage(record, found))),
            str(sum(map(sum, found["type"]["confusion"]))),
            *(_percent(record.metrics.get(f"{metric}_type")) for metric in LABEL_METRICS),
            *(_percent(record.metrics.get(f"{metric}_binary")) for metric in ("accuracy", "f1_macro")),
            _percent(record.metrics.get("auroc_sp")),
            record.run_id,
        ]
        for record, found in shown
    ]
    heads = ("dataset", "category", "stage", "first stage", "images")
    head = (*heads, *LABEL_METRICS, "accuracy (binary)", "f1_macro (binary)", "auroc_sp", "run")
    notes = list(dict.fromkeys(remark for record, _ in shown for remark in remarks(record)))
    if any(found["stage"] == "defects_only" for _, found in shown):
        notes.append("defects_only is over the anomalous images alone.")
    if hidden := len(typed) - len(shown):
        notes.append(f"Left out: {hidden} with a threshold chosen on the test labels.")
    parts = ["## Stages", grid(head, cells, texts=4), "\n".join(f"- {markdown(note)}" for note in notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_typing(results_dir: Path, records: Sequence[Record], run_ids: Collection[str] | None = None) -> list[Path]:
    """Write ``tables/types-<run_id>.md`` per run, or of these runs only, and ``tables/stages.md``. Returns their paths.

    Records without types are left out; without any, nothing is written. Raises InputError if the file system refuses.
    """
    runs: dict[str, list[Record]] = {}
    for record in records:
        if section(record) is not None:
            runs.setdefault(record.run_id, []).append(record)
    tables, written = Path(results_dir) / "tables", []
    for run_id, of_run in runs.items():
        if run_ids is not None and run_id not in run_ids:
            continue
        ordered = sorted(of_run, key=lambda record: record.category)
        written.append(tables / f"types-{run_id}.md")
        write_atomically(written[-1], "\n".join(map(results, ordered)).encode())
    if runs:
        written.append(tables / "stages.md")
        write_atomically(written[-1], stages([record for of_run in runs.values() for record in of_run]).encode())
    return written


def calibration_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of promised against measured false-alarm rates.

    points  ``scores`` (whose they are), ``rule``, ``k``, ``promised``, ``draws``, ``images``, and ``mean``, ``low`` and
            ``high`` as `methods.thresholds.measured_rates` gives them; ``unbounded`` is the share of draws whose
            threshold was infinite, because so few references can promise nothing
    """
    head = ("scores", "rule", "k", "draws", "normal images", "promised", "measured", "90 % of draws", "could promise")
    cells = [
        [
            *map(markdown, (point["scores"], point["rule"])),
            *map(str, (point["k"], point["draws"], point["images"])),
            _percent(point["promised"]),
            _percent(point["mean"]),
            f"{_percent(point['low'])}–{_percent(point['high'])}",
            _percent(1 - point["unbounded"]),
        ]
        for point in points
    ]
    return grid(head, cells, texts=2) + "\n"


def calibration_svg(points: Sequence[Mapping[str, Any]], title: str) -> str:
    """An SVG of promised (across) against measured (up) false-alarm rates; points as for `calibration_table`.

    One mark per point at the mean over draws, a bar from low to high, one colour per rule; on the diagonal the promise
    is kept, below it there are fewer alarms than promised.
    """
    side, margin = 360, 48
    top = max([0.1, *(max(point["promised"], point["high"]) for point in points)])
    colours = dict(zip(sorted({point["rule"] for point in points}), ("#1b6ca8", "#c44e52", "#55a868"), strict=False))

    def x(rate: float) -> float:
        return round(margin + side * rate / top, 1)

    def y(rate: float) -> float:
        return round(margin + side * (1 - rate / top), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side + 2 * margin + 90} {side + 2 * margin}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{margin}" y="24" font-size="13">{_xml(title)}</text>',
        f'<rect x="{margin}" y="{margin}" width="{side}" height="{side}" fill="none" stroke="#999"/>',
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(top)}" y2="{y(top)}" stroke="#999" stroke-dasharray="4 3"/>',
    ]
    for step in range(5):
        rate = top * step / 4
        lines.append(f'<text x="{x(rate)}" y="{y(0) + 16}" text-anchor="middle">{_percent(rate)}</text>')
        lines.append(f'<text x="{margin - 6}" y="{y(rate) + 4}" text-anchor="end">{_percent(rate)}</text>')
    lines.append(f'<text x="{x(top / 2)}" y="{y(0) + 34}" text-anchor="middle">promised false-alarm rate, %</text>')
    lines.append(
        f'<text x="12" y="{y(top / 2)}" text-anchor="middle" transform="rotate(-90 12 {y(top / 2)})">measured, %</text>'
    )
    for point in points:
        colour, at = colours.get(point["rule"], "#333"), x(point["promised"])
        told = f"{point['scores']}, k = {point['k']}, {point['rule']}: {_percent(point['mean'])} %"
        lines.append(
            f'<line x1="{at}" y1="{y(point["low"])}" x2="{at}" y2="{y(point["high"])}" stroke="{colour}" '
            'stroke-opacity="0.4"/>'
        )
        lines.append(
            f'<circle cx="{at}" cy="{y(point["mean"])}" r="3.5" fill="{colour}"><title>{_xml(told)}</title></circle>'
        )
    for place, (rule, colour) in enumerate(colours.items()):
        height = margin + 16 * (place + 1)
        lines.append(f'<circle cx="{side + margin + 12}" cy="{height - 4}" r="3.5" fill="{colour}"/>')
        lines.append(f'<text x="{side + margin + 20}" y="{height}">{_xml(rule)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _decided_by_oracle(found: Mapping[str, Any]) -> bool:
    return bool(found["threshold"]) and str(found["threshold"]["rule"]).startswith("oracle_")


def _first_stage(record: Record, found: Mapping[str, Any]) -> str:
    """What decides between normal and anomalous in two stages: the score and the rule of its threshold."""
    if found["stage"] != "two":
        return MISSING
    score = record.config["method"].get("first_stage", "")
    return f"{score}, {found['threshold']['rule']}".removeprefix(", ")


def _threshold(cut: Mapping[str, Any] | None) -> str:
    if cut is None:
        return ""
    value = "infinite" if cut["value"] is None else f"{cut['value']:.4g}"
    text = f"Threshold {cut['rule']}: anomalous is what scores {'at least' if cut['inclusive'] else 'above'} {value}."
    if cut["promised"] is not None:
        text += f" Promised false alarms: {_percent(cut['promised'])} %"
        if cut["interval"] is not None:
            low, high = cut["interval"]
            text += f"; 90 % of draws of references lie between {_percent(low)} % and {_percent(high)} %"
        text += "."
    return markdown(f"{text} {cut['note']}".strip())


def _per_class(found: Mapping[str, Any]) -> str:
    cells = [
        [
            markdown(name),
            *(_percent(found["per_class"][name][metric]) for metric in ("precision", "recall", "f1")),
            str(found["per_class"][name]["support"]),
        ]
        for name in found["classes"]
    ]
    return grid(("Class", "Precision", "Recall", "F1", "Images"), cells, texts=1)


def _confusion(found: Mapping[str, Any]) -> str:
    names = [markdown(name) for name in found["classes"]]
    cells = [[name, *map(str, row)] for name, row in zip(names, found["confusion"], strict=True)]
    return grid(("actual \\ predicted", *names), cells, texts=1)


def _confusions(found: Mapping[str, Any]) -> str:
    lines = [f"- {markdown(actual)} → {markdown(told)}: {count}" for actual, told, count in found["confusions"]]
    return "\n".join(["Confusions:", "", *lines]) if lines else "No confusions."


def _oracles(found: Mapping[str, Any]) -> str:
    """What a threshold from the test labels would give: to see how far the real one is from it, never as a result."""
    cells = []
    for rule, oracle in sorted(found.items()):
        binary = oracle["binary"]
        right = sum(binary["confusion"][place][place] for place in range(len(binary["classes"])))
        total = sum(map(sum, binary["confusion"]))
        value = oracle["threshold"]["value"]
        share = right / total if total else None
        cells.append([markdown(rule), MISSING if value is None else f"{value:.4g}", _percent(share)])
    table = grid(("Oracle (chosen on the test labels)", "Threshold", "Binary accuracy"), cells, texts=1)
    return f"No results, for comparison only:\n\n{table}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
