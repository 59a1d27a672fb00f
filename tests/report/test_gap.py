"""The table of steps between two protocols: the right records in the right rows, and changes against the row before."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY, command, jobs
from winclip_bench import records
from winclip_bench.config import as_dict
from winclip_bench.records import Record
from winclip_bench.report.gap import Step, gap_tables, main, read_steps
from winclip_bench.report.tables import METRICS

STEPS = read_steps()
PROMPTS, CLASS_NAME, REFERENCES, AUPRO = 1, 2, 8, 9


def record(step: Step, value: float, category: str = "lid", k: int = 0, seed: int = 0, **protocol: Any) -> Record:
    """One of a finished category, all metrics of one value, the other AUPRO 0.1 less."""
    config = as_dict(jobs("dataset=mvtec")[0])
    config |= {"k_shot": k, "seed": seed, "prompts": dict(step.prompts)}
    config["protocol"] |= {**step.protocol, **protocol}
    return Record(
        run_id=records.run_id({"protocol": config["protocol"], "prompts": config["prompts"], "k": k, "seed": seed}),
        dataset="mvtec",
        category=category,
        config=config,
        metrics={**dict.fromkeys(METRICS, value), "aupro_200": value - 0.1},
        undefined={},
        warnings=[],
        counts={},
        references=[],
        timing={},
        provenance={"weights_sha256": "a", "dataset_digest": "b"},
    )


def cells(text: str) -> list[list[str]]:
    """The rows of the only table in it, without its head."""
    assert text.count("## ") == 1
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_steps_are_what_the_command_line_composes() -> None:
    configs = jobs("experiment=protocol_gap", "dataset=mvtec", "k_shot=1")
    assert len(configs) == len(STEPS)
    for config, step in zip(configs, STEPS, strict=True):
        composed = as_dict(config)
        assert dict(step.prompts) == composed["prompts"]
        assert dict(step.protocol) == {key: composed["protocol"][key] for key in step.protocol}
        assert composed["protocol"].keys() - step.protocol.keys() <= {"pixels", "training"}


def test_every_step_says_what_it_changes() -> None:
    changes = [step.change for step in STEPS]
    assert changes[0] == "accurate_winclip"
    assert changes[PROMPTS] == "prompts: accurate_winclip → winclip"
    assert changes[4] == "temperature: 0.07 → 0.01"
    assert changes[AUPRO] == "aupro: thresholds_200 → exact"
    assert len(set(changes)) == len(STEPS)


def test_means_and_changes_by_hand() -> None:
    found = [record(STEPS[0], 0.5), record(STEPS[0], 0.7, "cup"), record(STEPS[1], 0.55), record(STEPS[1], 0.8, "cup")]
    rows = cells(gap_tables(found, STEPS))
    assert rows[0] == ["accurate_winclip", "2", "60.0", "60.0", "60.0", "50.0", "60.0", "60.0", "60.0"]
    assert rows[1][1:4] == ["2", "67.5 (+7.5)", "67.5 (+7.5)"]
    assert all(row[1:] == ["–"] * 8 for row in rows[3:])


def test_changes_are_over_what_both_rows_have() -> None:
    rows = cells(gap_tables([record(STEPS[0], 0.5), record(STEPS[0], 0.9, "cup"), record(STEPS[1], 0.4)], STEPS))
    assert rows[1][1:3] == ["1", "40.0 (-10.0)"]
    rows = cells(gap_tables([record(STEPS[0], 0.5), record(STEPS[1], 0.4, "cup")], STEPS))
    assert rows[1][1:3] == ["1", "40.0"]


def test_the_last_step_reads_the_records_of_the_one_before() -> None:
    rows = cells(gap_tables([record(STEPS[REFERENCES], 0.8)], STEPS))
    aupro = 2 + METRICS.index("aupro")
    assert (rows[REFERENCES][aupro], rows[AUPRO][aupro]) == ("70.0", "80.0 (+10.0)")
    assert rows[AUPRO][2] == "80.0 (+0.0)"


def test_records_count_under_whatever_name() -> None:
    rows = cells(gap_tables([record(STEPS[AUPRO], 0.8, name="paper")], STEPS))
    assert [row[1] for row in rows[REFERENCES:]] == ["1", "1"]


@pytest.mark.parametrize("change", [{"temperature": 0.02}, {"class_name": "words"}, {"map_combination": "mean"}])
def test_records_of_other_protocols_stay_out(change: dict[str, Any]) -> None:
    assert gap_tables([record(STEPS[0], 0.8, **change)], STEPS) == ""


def test_words_count_where_they_are_spoken() -> None:
    step = STEPS[CLASS_NAME]
    assert gap_tables([record(step, 0.8, "lid", class_words={})], STEPS) != ""
    assert gap_tables([record(step, 0.8, "pcb1", class_words={})], STEPS) == ""
    assert gap_tables([record(step, 0.8, "pcb1")], STEPS) != ""


def test_seeds_are_averaged_and_shots_are_not() -> None:
    found = [record(STEPS[0], 0.5, k=1), record(STEPS[0], 0.7, k=1, seed=1)]
    assert cells(gap_tables(found, STEPS))[0][1:3] == ["2", "60.0"]
    text = gap_tables([*found, record(STEPS[0], 0.3), record(STEPS[0], 0.3, seed=1)], STEPS)
    assert (text.count("k = 0"), text.count("k = 1")) == (1, 1)
    text = gap_tables([record(STEPS[0], 0.3), record(STEPS[0], 0.3, seed=1)], STEPS)  # no part of a zero-shot run
    assert cells(text)[0][1] == "1"


def test_undefined_metrics_are_missing_not_0() -> None:
    without = Record(**{**asdict(record(STEPS[0], 0.5)), "metrics": {"auroc_sp": 0.5, "auroc_px": None}})
    row = cells(gap_tables([without], STEPS))[0]
    assert row[2:] == ["–", "–", "–", "–", "50.0", "–", "–"]


def test_the_command_on_a_sweep_of_two_steps(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    assert main([str(results)]) == 1
    assert "experiment=protocol_gap" in capsys.readouterr().err
    outcome = command(
        "-m", "experiment=protocol_gap", "protocol=accurate_winclip,gap/1_prompts", "k_shot=0", "dataset=folder",
        f"dataset.root={parts}", "dataset.categories=[bolt]", "backbone=demo", "backbone.pretrained=untrained",
        "scales=[2]", f"results_dir={results}", f"runtime.cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert main([str(results)]) == 0
    rows = cells(capsys.readouterr().out)
    assert [row[1] for row in rows[:3]] == ["1", "1", "–"]
    assert all("(" in cell for cell in rows[1][2:])


def test_the_committed_records_are_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(REPOSITORY / "results" / "examples")]) == 0
    assert "k = 0" in capsys.readouterr().out
