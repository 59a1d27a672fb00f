"""Types of defect from records: the original's tables, the stages side by side, and oracles kept apart."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from winclip_bench.metrics import classification, label_metrics
from winclip_bench.records import Record, read, read_all, to_json
from winclip_bench.report import typing

GOLDEN = Path(__file__).parent / "golden"
CLASSES = ("good", "crack", "cut")
ACTUAL = ["good"] * 4 + ["crack"] * 3 + ["cut"] * 3
FIXED = {"rule": "fixed", "value": 0.0, "inclusive": False, "promised": None, "interval": None, "note": ""}


def typed(
    predicted: list[str],
    stage: str = "two",
    threshold: dict[str, Any] | None = FIXED,
    actual: list[str] = ACTUAL,
    **changes: Any,
) -> Record:
    """A record whose images were named so."""
    record = next(record for record in read_all(GOLDEN)[0] if record.dataset == "mvtec")
    found = label_metrics(predicted, actual, CLASSES if stage != "defects_only" else CLASSES[1:])
    oracle = threshold is not None and threshold["rule"].startswith("oracle_")
    metrics = classification.scalars(found, "type", oracle=oracle)
    section: dict[str, Any] = {
        "stage": stage, "type": classification.section(found), "binary": None, "threshold": threshold, "oracle": {},
    }  # fmt: skip
    if stage != "defects_only":
        binary = classification.binary_metrics([p != "good" for p in predicted], [a != "good" for a in actual])
        metrics |= classification.scalars(binary, "binary", oracle=oracle) | {"auroc_sp": 0.9004}
        section["binary"] = classification.section(binary)
    config = {**record.config, "method": {"name": "defect_types", "first_stage": "compositional"}}
    undefined = {name: "never predicted" for name, value in metrics.items() if value is None}
    return replace(
        record, category="hazelnut", config=config, metrics=metrics, undefined=undefined, typing=section, **changes
    )


PREDICTED = ["good", "good", "good", "crack", "crack", "crack", "cut", "good", "good", "cut"]


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]


def test_a_record_with_types_is_a_record(tmp_path: Path) -> None:
    record = typed(PREDICTED)
    path = tmp_path / "records" / record.dataset / record.run_id / "hazelnut.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(to_json(record))
    assert typing.results(read(path)) == typing.results(record)


def test_results_have_the_shape_of_the_original_tables() -> None:
    """By hand: 6 of 10 named right, 7 of 10 told normal or anomalous rightly."""
    found = rows(typing.results(typed(PREDICTED)))
    assert found[0] == ["Metric", "Binary (normal, anomalous)", "Multi-class (all classes)"]
    assert found[2] == ["Accuracy", "70.0", "60.0"]
    assert found[4] == ["Mean recall", "70.8", "58.3"]
    assert found[6] == ["ROC AUC", "90.0", "–"]
    assert found[7] == ["Class", "Precision", "Recall", "F1", "Images"]
    assert found[9:12] == [
        ["good", "60.0", "75.0", "66.7", "4"],
        ["crack", "66.7", "66.7", "66.7", "3"],
        ["cut", "50.0", "33.3", "40.0", "3"],
    ]
    assert found[14:17] == [["good", "3", "1", "0"], ["crack", "0", "2", "1"], ["cut", "2", "0", "1"]]
    assert found[-2:] == [["normal", "3", "1"], ["anomalous", "2", "4"]]


def test_confusions_are_listed_most_frequent_first() -> None:
    text = typing.results(typed(PREDICTED))
    assert re.findall(r"^- (\w+) → (\w+): (\d)$", text, re.M) == [
        ("cut", "good", "2"), ("good", "crack", "1"), ("crack", "cut", "1"),
    ]  # fmt: skip
    assert "No confusions." in typing.results(typed(ACTUAL))


def test_a_class_never_predicted_has_a_dash_for_its_precision() -> None:
    found = rows(typing.results(typed(["good"] * 10)))
    assert ["cut", "–", "0.0", "0.0", "3"] in found


def test_thresholds_say_what_they_promise() -> None:
    cut = {**FIXED, "rule": "conformal", "value": None, "promised": 0.05, "interval": [0.0, 0.0], "note": "Too few."}
    text = typing.results(typed(PREDICTED, threshold=cut))
    assert "scores above infinite. Promised false alarms: 5.0 %" in text
    assert "between 0.0 % and 0.0 %. Too few." in text
    assert "Threshold" not in typing.results(typed(PREDICTED, "single", threshold=None))


def test_oracles_never_look_like_results() -> None:
    cut = {**FIXED, "rule": "oracle_youden", "inclusive": True, "note": "chosen on the test labels: no result"}
    record = typed(PREDICTED, threshold=cut)
    assert not set(record.metrics) & set(classification.TYPE_METRICS + classification.BINARY_METRICS)
    text = typing.results(record)
    assert "**Decided by an oracle" in text
    assert ["Accuracy", "70.0", "60.0"] in rows(text)
    table = typing.stages([record, typed(PREDICTED)])
    assert len(rows(table)) == 2 + 1
    assert "Left out: 1 with a threshold chosen on the test labels." in table

    beside = typed(PREDICTED)
    section = dict(beside.typing or {})
    section["oracle"] = {"oracle_f1": {"threshold": cut, "binary": section["binary"]}}
    text = typing.results(replace(beside, typing=section))
    assert "No results, for comparison only:" in text
    assert ["oracle_f1", "0", "70.0"] in rows(text)


def test_stages_stand_side_by_side() -> None:
    defects = [(actual, predicted) for actual, predicted in zip(ACTUAL, PREDICTED, strict=True) if actual != "good"]
    only = typed(
        ["crack" if predicted == "good" else predicted for _, predicted in defects],
        "defects_only", None, [actual for actual, _ in defects], run_id="0" * 12,
    )  # fmt: skip
    single = typed(["crack"] * 10, "single", None, run_id="1" * 12)
    table = typing.stages([only, typed(PREDICTED), single])
    assert [row[2:6] for row in rows(table)[2:]] == [
        ["single", "–", "10", "30.0"],
        ["two", "compositional, fixed", "10", "60.0"],
        ["defects_only", "–", "6", "50.0"],
    ]
    assert "defects_only is over the anomalous images alone." in table
    assert "yet" in typing.stages([])


def test_files_are_written_for_runs_with_types_only(tmp_path: Path) -> None:
    plain = read_all(GOLDEN)[0]
    assert typing.write_typing(tmp_path, plain) == []
    assert not (tmp_path / "tables").exists()
    record = typed(PREDICTED)
    paths = typing.write_typing(tmp_path, [*plain, record, replace(record, category="acorn")])
    assert [path.name for path in paths] == [f"types-{record.run_id}.md", "stages.md"]
    text = paths[0].read_text()
    assert text.index("acorn") < text.index("hazelnut")
    with pytest.raises(ValueError, match="names no types"):
        typing.results(plain[0])


def test_hostile_names_stay_in_their_cells() -> None:
    record = typed(PREDICTED)
    section = dict(record.typing or {})
    names = ["good", "<b>|x`", "a\nb"]
    renamed = {
        "classes": names,
        "per_class": dict(zip(names, section["type"]["per_class"].values(), strict=True)),
        "confusions": [[names[1], names[2], 1]],
    }
    section["type"] = {**section["type"], **renamed}
    text = typing.results(replace(record, typing=section))
    assert not re.search(r"<|(?<!\\)`", text)
    assert all(character.isprintable() or character == "\n" for character in text)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[7:12]} == {6}


POINT = {
    "scores": "brick & <co>", "rule": "normal", "k": 4, "promised": 0.05, "draws": 50, "images": 12,
    "mean": 0.0733, "low": 0.0, "high": 0.25, "images_low": 0.0, "images_high": 0.3, "unbounded": 0.0,
}  # fmt: skip


def test_calibration_is_a_number_and_a_plot() -> None:
    other = {**POINT, "rule": "conformal", "mean": 0.0, "high": 0.0, "unbounded": 1.0}
    found = rows(typing.calibration_table([POINT, other]))
    assert found[2][1:] == ["normal", "4", "50", "12", "5.0", "7.3", "0.0–25.0", "100.0"]
    assert found[3][-1] == "0.0"
    image = ElementTree.fromstring(typing.calibration_svg([POINT, other], "Promised & measured"))
    marks = [node for node in image.iter() if node.tag.endswith("circle") and len(node)]
    assert len(marks) == 2
    assert float(marks[0].get("cy", 0)) < float(marks[1].get("cy", 0))  # more alarms stand higher
    assert marks[0].get("fill") != marks[1].get("fill")
    assert "brick & <co>, k = 4, normal: 7.3 %" in {node.text for node in image.iter()}
