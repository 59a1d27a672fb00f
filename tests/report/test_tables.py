"""Tables from records: golden files, means over fewer classes, hostile names.

``golden`` is a results folder of two runs. After a change that is meant, refresh its tables and review their diff:

    REFRESH_GOLDEN=1 python -m pytest tests/report/test_tables.py
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import python_path
from winclip_bench.errors import InputError
from winclip_bench.records import Record, read, read_all, write
from winclip_bench.report import tables
from winclip_bench.report.shared import write_shared

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Record]]:
    records, broken = read_all(GOLDEN)
    assert not broken
    return {name: [record for record in records if record.dataset == name] for name in ("demo", "mvtec")}


def as_run(record: Record, values: dict[str, list[float | None]]) -> list[Record]:
    """One record per category of ``values``, whose metrics are given in the order of the columns."""
    config = {**record.config, "dataset": {**record.config["dataset"], "categories": []}}
    run = []
    for name, numbers in values.items():
        metrics = dict(zip(tables.METRICS, numbers, strict=True))
        undefined = {metric: "no such pixels" for metric, value in metrics.items() if value is None}
        run.append(replace(record, category=name, config=config, metrics=metrics, undefined=undefined, warnings=[]))
    return run


def test_golden_tables(runs: dict[str, list[Record]], tmp_path: Path) -> None:
    target = GOLDEN if os.environ.get("REFRESH_GOLDEN") else tmp_path
    for records in runs.values():
        tables.write_tables(target, records)
    tables.write_atomically(target / "tables" / "overview.md", tables.overview(runs["demo"] + runs["mvtec"]).encode())
    written = {path.name: path.read_text() for path in (target / "tables").iterdir()}
    assert written == {path.name: path.read_text() for path in (GOLDEN / "tables").iterdir()}


def test_mean_is_over_the_classes_that_have_the_metric(runs: dict[str, list[Record]]) -> None:
    values = {"a": [0.1, None, 0.3, 0.0, 0.5, None, 0.7], "b": [0.3, 0.2, None, 1.0, 0.6, None, 0.9]}
    table = tables.table(as_run(runs["demo"][0], values))
    with np.errstate(all="ignore"):
        columns = np.array(list(values.values()), float)
        reference = [np.nanmean(c) if np.isfinite(c).any() else None for c in columns.T]
    for value, expected in zip(table.mean.values, reference, strict=True):
        assert value is None if expected is None else value == pytest.approx(expected, abs=1e-15)
    assert table.mean.label == "mean"
    assert table.mean.incomplete == {"f1_px", "ap_px"}
    text = tables.to_markdown(table)
    assert re.search(r"\| a +\| +10.0 \| +– \| +30.0 \| +0.0 \| +50.0 \| +– \| +70.0 \|", text)
    assert re.search(r"\| mean +\| +20.0 \| +20.0\\\* \| +30.0\\\* \| +50.0 \| +55.0 \| +– \| +80.0 \|", text)
    assert "\\* f1_px undefined in a: no such pixels" not in text  # f1_px and f1_sp share class and reason
    assert "- \\* f1_px, f1_sp undefined in a: no such pixels" in text


def test_failed_categories_are_rows_of_dashes_with_their_reason(runs: dict[str, list[Record]]) -> None:
    expected = ["zipper", "brick", "grass & gravel", "cable"]
    table = tables.table(runs["demo"], expected, {"zipper": "x.png is truncated"})
    assert [row.label for row in table.rows] == sorted(expected)
    assert table.mean.label == "mean (2 of 4)"
    assert table.mean.values == tables.table(runs["demo"]).mean.values
    assert table.notes[:2] == ("cable has no record: not finished", "zipper has no record: x.png is truncated")
    dashes = ["–"] * len(tables.METRICS)
    for row in (rows := list(csv.reader(io.StringIO(tables.to_csv(table)))))[1:]:
        assert (row[1:] == dashes) == (row[0] in {"cable", "zipper"})
    assert rows[0] == ["objects", "auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp"]


def test_csv_has_the_full_numbers(runs: dict[str, list[Record]]) -> None:
    table = tables.table(runs["mvtec"])
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(tables.to_csv(table)))}
    bottle = next(record for record in runs["mvtec"] if record.category == "bottle")
    assert [float(cell) for cell in rows["bottle"]] == [100 * bottle.metrics[metric] for metric in tables.METRICS]


def test_heading_names_the_run(runs: dict[str, list[Record]]) -> None:
    demo, mvtec = (tables.table(runs[name]) for name in ("demo", "mvtec"))
    assert mvtec.heading.startswith("mvtec · WinCLIP · ViT-B-16-plus-240 (laion400m_e31) · k = 0 · prompts winclip")
    assert demo.heading.startswith("demo · WinCLIP+ · ViT-tiny (untrained) · k = 4 · seed 1 · prompts two_plain")
    assert mvtec.remarks == ()
    assert demo.remarks == (tables.UNTRAINED, tables.DEMO)


def test_records_of_several_runs_or_twice_one_category_are_refused(runs: dict[str, list[Record]]) -> None:
    for records in ([], runs["demo"] + runs["mvtec"], runs["demo"] * 2):
        with pytest.raises(ValueError, match="records of one run"):
            tables.table(records)


def test_overview_is_sorted_and_counts_classes(runs: dict[str, list[Record]]) -> None:
    few = [replace(r, run_id="0" * 12, config={**r.config, "k_shot": 2}) for r in runs["mvtec"]]
    lines = tables.overview([*few, *runs["mvtec"], *runs["demo"]]).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [(row[0], row[3], row[9]) for row in rows[2:]] == [
        ("demo", "4", "2"),
        ("mvtec", "0", "2 of 3"),
        ("mvtec", "2", "2 of 3"),
    ]
    assert tables.overview([]) == "## Overview\n\nNo finished categories yet.\n"


def test_what_is_over_all_runs_is_made_from_all_usable_records(tmp_path: Path) -> None:
    for path in GOLDEN.glob("records/*/*/*.json"):
        copy = tmp_path / path.relative_to(GOLDEN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    next(tmp_path.glob("records/demo/*/brick.json")).write_text("{")
    written, (broken,) = write_shared(tmp_path)
    assert "brick.json" in broken
    assert written[-2:] == [tmp_path / "tables" / "overview.md", tmp_path / "index.html"]
    assert written[-2].read_text().count("| demo ") == 1


def test_a_record_that_appears_meanwhile_is_in_what_is_over_all_runs(tmp_path: Path) -> None:
    """Whoever writes last has seen all: a slower command does not put an older overview over a newer one."""
    late, *early = read_all(GOLDEN)[0]
    for record in early:
        write(tmp_path, record, [])
    render = tables.overview
    texts = []

    def overtaken(records: Iterable[Record]) -> str:
        texts.append(render(records))
        if len(texts) == 1:
            write(tmp_path, late, [])
        return texts[-1]

    with mock.patch.object(tables, "overview", overtaken):
        write_shared(tmp_path)
    assert len(texts) == 2
    assert (tmp_path / "tables" / "overview.md").read_text() == texts[1] == render([late, *early])
    assert texts[0] != texts[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), min_size=1), min_size=3, max_size=3, unique=True))
def test_hostile_text_stays_in_its_cell(names: list[str]) -> None:
    record = read_all(GOLDEN)[0][0]
    run = as_run(record, {names[0]: [None] * 7, names[1]: [0.5] * 7})
    backbone = {**record.config["backbone"], "name": names[2]}
    run = [replace(r, config={**r.config, "backbone": backbone}, warnings=[names[2]]) for r in run]
    table = tables.table(run, names)

    markdown = tables.to_markdown(table)
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3 + 1
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows} == {9}
    assert not re.search(r"<|(?<!\\)(?:\\\\)*`", markdown)

    cells = list(csv.reader(io.StringIO(tables.to_csv(table))))
    assert [len(row) for row in cells] == [8] * 5
    assert not any(row[0].startswith(("=", "+", "-", "@")) for row in cells)

    latex = tables.to_latex(table)
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    body = [line for line in latex.splitlines() if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [7] * 5
    for text in (markdown, latex, tables.to_csv(table), tables.overview(run)):
        assert all(character.isprintable() or character == "\n" for character in text)
    assert "/" not in table.slug
    assert len(table.slug.encode()) <= 150


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_record_is_refused_or_tabulated(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = data.draw(st.sampled_from(sorted(GOLDEN.glob("records/*/*/*.json"))))
    content = node = json.loads(source.read_text())
    while True:  # walk to a random place and put something else there
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(JSON_VALUES)
            break
        node = node[key]
    path = tmp_path_factory.getbasetemp() / "fuzz" / source.relative_to(GOLDEN)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    try:
        record = read(path)
    except InputError as error:
        assert path.name in str(error)
        return
    table = tables.table([record])
    assert tables.to_markdown(table) and tables.to_csv(table) and tables.to_latex(table) and tables.overview([record])


def test_reports_need_neither_torch_nor_hydra() -> None:
    code = (
        "import sys, winclip_bench.records, winclip_bench.report.tables, winclip_bench.tracking\n"
        "print({'torch', 'hydra', 'omegaconf', 'open_clip', 'wandb'} & sys.modules.keys())"
    )
    package = Path(tables.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": python_path(package)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout == "set()\n"
