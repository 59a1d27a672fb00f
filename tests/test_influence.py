"""Leaving one reference out: the numbers of a run without it, from the store."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import SEVEN, arguments, command, read_records
from winclip_bench import influence
from winclip_bench.influence import Influence
from winclip_bench.pipelines.shared import Reference


def table(text: str, category: str) -> dict[str, list[str]]:
    """The rows of a category's table by their label, in order."""
    lines = text.split(f"### {category}\n")[1].strip().split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return {label: cells for label, *cells in rows}


def test_it_is_a_run_without_the_image(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    settings = arguments(parts, results, "k_shot=3", "seed=1")
    assert command(*settings).code == 0
    with_all = {name: record for (_, name), record in read_records(results).items()}
    (run_id,) = {run for run, _ in read_records(results)}

    assert influence.main(settings) == 0
    said = capsys.readouterr()
    assert said.err == "", "everything is in the store"
    written = results / "influence" / f"folder-{run_id}.md"
    assert said.out == f"{written.read_text()}\n{written}\n"
    assert set(read_records(results)) == {(run_id, "bolt"), (run_id, "wood_panel")}, "it leaves no record"

    for name, record in with_all.items():
        rows = table(said.out, name)
        assert rows.pop("all 3") == [f"{100 * record['metrics'][metric]:.1f}" for metric in SEVEN]
        paths = [reference["path"] for reference in record["references"]]
        assert sorted(rows) == sorted(paths)
        for left in paths:
            listed = tmp_path / "listed.txt"
            listed.write_text("\n".join(path for path in paths if path != left))
            other = tmp_path / f"without-{name}-{Path(left).stem}"
            more = ("k_shot=2", f"references.file={listed}", f"dataset.categories=[{name}]")
            assert command(*arguments(parts, other, *more)).code == 0
            (without,) = read_records(other).values()
            for cell, metric in zip(rows[left], SEVEN, strict=True):
                change = 100 * (without["metrics"][metric] - record["metrics"][metric])
                assert float(cell.replace("−", "-")) == pytest.approx(change, abs=0.00501)


def test_what_is_not_in_the_store_is_encoded_and_said(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = arguments(parts, tmp_path / "results", "k_shot=2", "dataset.categories=[bolt]")
    assert influence.main(settings) == 0
    assert capsys.readouterr().err == "bolt: 6 images were not in the store and have been encoded\n"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("k_shot=1",), "error: leaving one reference out needs at least two of them; set k_shot=1 to 2 or more\n"),
        (("k_shot=4",), "error: bolt: category 'bolt' has 3 training images; set k_shot=4 to at most that\n"),
        (("k_shot=many",), "error: k_shot=many is refused"),
        (("backbone=no_such_one",), "error: backbone=no_such_one: there is no such backbone"),
    ],
)
def test_what_cannot_be_done(
    parts: Path, tmp_path: Path, settings: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert influence.main(arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", *settings)) == 1
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1


def test_one_image_drawn_several_times_is_one(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two draws from three images with replacement, some seed takes one of them twice."""
    draw = ("k_shot=2", "protocol.references=with_replacement", "dataset.categories=[bolt]")
    complaints = []
    for seed in range(6):
        influence.main(arguments(parts, tmp_path / "results", *draw, f"seed={seed}"))
        complaints += [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert complaints
    assert set(complaints) == {
        "error: bolt: bolt has 1 different reference images, and leaving one out needs two; set k_shot to 2 or more"
    }


def test_the_order_is_that_of_the_image_then_the_pixel_change() -> None:
    def metrics(sample: float | None, pixel: float | None) -> dict[str, Any]:
        return {**dict.fromkeys(SEVEN), "auroc_sp": sample, "auroc_px": pixel}

    little, most, least, less = (Reference(Path(name), name, name) for name in ("little", "most", "least", "less"))
    found = Influence(
        metrics(0.5, 0.5),
        {
            least: metrics(0.5, 0.5),
            less: metrics(0.5, 0.25),
            little: metrics(0.75, 0.5),
            most: metrics(0.125, 0.5),
        },
        encoded=0,
    )
    assert [reference.path for reference in found.ranked()] == ["most", "little", "less", "least"]
    rows = table(influence.to_markdown("c", found), "c")
    assert rows["all 4"] == ["50.0", "–", "–", "–", "50.0", "–", "–"]
    assert rows["most"] == ["0.00", "–", "–", "–", "−37.50", "–", "–"]
