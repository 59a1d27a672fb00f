"""Tables over seeds: golden files, numbers against numpy, which runs belong together.

After a change that is meant, refresh the golden tables and review their diff:

    REFRESH_GOLDEN=1 python -m pytest tests/report/test_spread.py
"""

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winclip_bench import records
from winclip_bench.records import Record, read_all
from winclip_bench.report import tables
from winclip_bench.report.spread import seed_groups

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_SEEDS = Path(__file__).parent / "golden_seeds"
METRICS = tables.METRICS

Numbers = Mapping[str, list[float | None]]

THREE_SEEDS: dict[int, Numbers] = {
    0: {"brick": [0.5, 0.25, 0.125, 0.5, 0.75, 1.0, 0.5], "grass": [0.25, None, 0.5, 0.5, 0.75, 0.5, 0.25]},
    1: {"brick": [0.625, 0.25, 0.25, 0.5, 0.5, 1.0, 0.5], "grass": [0.375, None, 0.5, 0.5, 1.0, 0.5, 0.25]},
    10: {"brick": [0.75, 0.25, 0.375, 0.5, 1.0, 1.0, 0.5], "grass": [0.5, None, 0.5, 0.5, 0.5, 0.5, 0.25]},
}


def run(seed: int, values: Numbers, **settings: Any) -> list[Record]:
    """The run of a seed, with records of these numbers, in the order of the columns."""
    base = read_all(GOLDEN)[0][0]
    config = {**base.config, "seed": seed, "dataset": {**base.config["dataset"], "categories": []}, **settings}
    run_id = records.run_id({"seed": seed, "settings": settings})
    found = []
    for name, numbers in values.items():
        metrics = dict(zip(METRICS, numbers, strict=True))
        undefined = {metric: "no such pixels" for metric, value in metrics.items() if value is None}
        found.append(replace(base, run_id=run_id, category=name, config=config, metrics=metrics, undefined=undefined))
    return found


def runs(seeds: Mapping[int, Numbers], **settings: Any) -> list[Record]:
    return [record for seed, values in seeds.items() for record in run(seed, values, **settings)]


def cells(text: str) -> dict[str, list[str]]:
    """Rows of a table in markdown by their label."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {label: values for label, *values in rows[2:]}


def test_golden_tables(tmp_path: Path) -> None:
    for record in (everything := runs(THREE_SEEDS)):
        records.write(tmp_path, record, [])
    found, _ = records.read_all(tmp_path)
    written = tables.write_seeds_tables(tmp_path, found, {everything[-1].run_id})
    assert [path.suffix for path in written] == [".md", ".csv", ".tex"]
    tables.write_overview(tmp_path, found)
    found = {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()}
    if os.environ.get("REFRESH_GOLDEN"):
        for name, text in found.items():
            (GOLDEN_SEEDS / name).write_text(text)
    assert found == {path.name: path.read_text() for path in GOLDEN_SEEDS.iterdir()}


VALUE = st.one_of(st.floats(0, 1), st.none())


@given(
    values=st.dictionaries(
        st.integers(0, 99),
        st.dictionaries(st.sampled_from("abc"), st.lists(VALUE, min_size=7, max_size=7), min_size=1),
        min_size=2,
        max_size=4,
    )
)
def test_numbers_are_those_of_numpy(values: dict[int, Numbers]) -> None:
    (group,) = seed_groups(runs(values))
    content = tables.seeds_table(group)
    names = sorted({name for numbers in values.values() for name in numbers})
    assert [row.label.split(" ")[0] for row in content.rows] == names
    cube = np.full((len(values), len(names), 7), np.nan)  # seed, class, metric
    for first, numbers in enumerate(values.values()):
        for name, column in numbers.items():
            cube[first, names.index(name)] = [np.nan if value is None else value for value in column]

    def check(row: tables.Row, metric: int, expected: np.ndarray) -> None:
        assert row.stds is not None
        value, std = row.values[metric], row.stds[metric]
        assert (value is None) == (len(expected) == 0)
        assert (std is None) == (len(expected) < 2)
        assert value is None or value == pytest.approx(expected.mean(), abs=1e-12)
        assert std is None or std == pytest.approx(expected.std(ddof=1), abs=1e-12)

    for metric in range(7):
        for index, row in enumerate(content.rows):
            column = cube[:, index, metric]
            check(row, metric, column[np.isfinite(column)])
        whole = cube[:, np.isfinite(cube[:, :, metric]).all(0), metric]
        check(content.mean, metric, whole.mean(1) if whole.size else np.empty(0))


def test_the_spread_of_the_mean_is_that_of_the_means() -> None:
    """Two classes that move against each other: each of them spreads, their mean does not."""
    numbers = {seed: {"a": [0.25 * seed] * 7, "b": [0.5 - 0.25 * seed] * 7} for seed in range(3)}
    (group,) = seed_groups(runs(numbers))
    found = cells(tables.to_markdown(tables.seeds_table(group)))
    assert found == {name: ["25.0 ± 25.0"] * 7 for name in "ab"} | {"mean": ["25.0 ± 0.0"] * 7}


def test_classes_that_some_seeds_have_not_finished() -> None:
    """They say so, and the mean is over the classes of all seeds."""
    full = [0.5] * 7
    numbers = {0: {"a": full, "b": full, "c": full}, 1: {"a": [0.25] * 7, "b": full}, 2: {"a": full}}
    (group,) = seed_groups(runs(numbers))
    content = tables.seeds_table(group)
    found = cells(tables.to_markdown(content))
    assert list(found) == ["a", "b (2 of 3 seeds)", "c (1 of 3 seeds)", "mean (1 of 3)"]
    assert found["c (1 of 3 seeds)"] == ["50.0"] * 7
    assert found["mean (1 of 3)"] == found["a"] == ["41.7 ± 14.4"] * 7
    assert "· 3 seeds ·" in content.heading


def test_undefined_metrics_are_left_out_of_the_mean_with_a_mark() -> None:
    (group,) = seed_groups(runs(THREE_SEEDS))
    text = tables.to_markdown(tables.seeds_table(group))
    assert cells(text)["grass"][1] == "–"
    assert cells(text)["mean"][1] == "25.0 ± 0.0\\*"
    assert "- \\* f1_px undefined in grass: no such pixels" in text


def test_csv_has_the_standard_deviations_in_columns_of_their_own() -> None:
    (group,) = seed_groups(runs(THREE_SEEDS))
    head, *rows = csv.reader(io.StringIO(tables.to_csv(tables.seeds_table(group))))
    assert head == ["objects", *(name for metric in METRICS for name in (metric, f"{metric}_std"))]
    brick = dict(zip(head, rows[0], strict=True))
    assert (float(brick["auroc_px"]), float(brick["auroc_px_std"])) == (62.5, 12.5)
    assert dict(zip(head, rows[1], strict=True))["f1_px_std"] == "–"


@pytest.mark.parametrize(
    "settings",
    [
        {"k_shot": 2},
        {"scales": [3]},
        {"prompts": {"name": "winclip"}},
        {"protocol": {"name": "paper", "temperature": 0.07}},
        {"runtime": {"precision": "bf16"}},
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_apart(settings: dict[str, Any]) -> None:
    one, other = THREE_SEEDS[0], THREE_SEEDS[1]
    assert not seed_groups(run(0, one) + run(1, other, **settings))
    groups = seed_groups(run(0, one) + run(0, one, **settings) + run(1, other) + run(1, other, **settings))
    assert [list(group.runs) for group in groups] == [[0, 1], [0, 1]]


def test_where_and_on_what_it_ran_does_not_part_runs() -> None:
    elsewhere = {"results_dir": "/tmp", "tracker": {"name": "wandb"}, "runtime": {"precision": "fp32", "workers": 9}}
    assert len(seed_groups(run(0, THREE_SEEDS[0]) + run(1, THREE_SEEDS[1], **elsewhere))) == 1


@pytest.mark.parametrize(
    "settings",
    [{"k_shot": 0}, {"references": {"file": "sets.csv"}}, {"protocol": {"name": "paper", "references": "first"}}],
)
def test_runs_whose_references_no_seed_decides(settings: dict[str, Any]) -> None:
    assert not seed_groups(runs(THREE_SEEDS, **settings))
    assert "seed " not in tables.table(run(1, THREE_SEEDS[1], **settings)).heading
    assert "seed" not in tables.table(run(1, THREE_SEEDS[1], **settings)).slug
    rows = [line for line in tables.overview(run(1, THREE_SEEDS[1], **settings)).splitlines() if line.startswith("|")]
    assert rows[2].split("|")[5].strip() == "–"


def test_weights_and_data_part_runs() -> None:
    one, other = run(0, THREE_SEEDS[0]), run(1, THREE_SEEDS[1])
    for key in ("weights_sha256", "dataset_digest"):
        changed = [replace(record, provenance={**record.provenance, key: "0" * 64}) for record in other]
        assert not seed_groups(one + changed)


def test_a_run_without_other_seeds_has_no_such_table(tmp_path: Path) -> None:
    assert tables.write_seeds_tables(tmp_path, run(0, THREE_SEEDS[0])) == []
    assert "over seeds" not in tables.overview(run(0, THREE_SEEDS[0]))
