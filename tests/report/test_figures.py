"""Figures from constructed results: what is drawn, from what, and what is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.report.results import config, make_run
from winclip_bench.errors import InputError
from winclip_bench.records import Record, read_all
from winclip_bench.report import figures
from winclip_bench.report.__main__ import main
from winclip_bench.report.page.content import series_of


def sweep(results: Path, **more: Any) -> list[Record]:
    """Two prompt sets, k of 0, 1 and 2 with two seeds, of which the metric is known; a third set with k = 0 alone."""
    for prompts, base in (("winclip", 0.8), ("two_plain", 0.6)):
        make_run(results, ["bolt", "nut"], config("parts", 0, 0, prompts), metrics={"auroc_sp": base}, **more)
        for k in (1, 2):
            for seed, shift in ((0, -0.01), (1, 0.01)):
                value = base + 0.05 * k + shift
                settings = config("parts", k, seed, prompts)
                make_run(results, ["bolt", "nut"], settings, metrics={"auroc_sp": value}, **more)
    make_run(results, ["bolt", "nut"], config("parts", 0, 0, "states"), metrics={"auroc_sp": 0.7}, **more)
    return read_all(results)[0]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_a_line_has_the_means_and_its_band_the_deviation_over_seeds(results: Path) -> None:
    figure = figures.against_k(series_of(sweep(results, shown=0)), "auroc_sp")
    assert figure is not None
    (axes,) = figure.axes
    lines = {str(line.get_label()): line.get_ydata() for line in axes.lines}
    assert lines.keys() == {"winclip", "two_plain"}  # one value of k makes no line
    np.testing.assert_allclose(lines["winclip"], [80, 85, 90])
    np.testing.assert_allclose(lines["two_plain"], [60, 65, 70])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
    of_winclip = max(axes.collections, key=lambda band: band.get_paths()[0].vertices[:, 1].max())
    vertices = of_winclip.get_paths()[0].vertices
    assert vertices[:, 1].max() == pytest.approx(90 + np.std([89, 91], ddof=1))
    assert {*vertices[vertices[:, 0] == 0, 1].round(6)} == {80.0}  # nothing is drawn at k = 0


def test_a_bar_for_each_configuration_of_one_k(results: Path) -> None:
    found = series_of(sweep(results, shown=0))
    rows = [row for series in found for row in series.rows if row.k == 0]
    figure = figures.ablation(rows, "auroc_sp")
    assert figure is not None
    (axes,) = figure.axes
    bars = {text.get_text(): bar.get_width() for text, bar in zip(axes.texts[1::2], axes.patches, strict=True)}
    assert bars == pytest.approx({"states": 70, "two_plain": 60, "winclip": 80})
    assert figures.ablation(rows[:1], "auroc_sp") is None
    assert figures.ablation(rows, "aupro") is None  # which no record has


def test_what_has_no_column_of_its_own_is_named(results: Path) -> None:
    for aggregation in ("harmonic", "arithmetic"):
        settings = config("parts") | {"method": {"name": "winclip", "aggregation": aggregation}}
        make_run(results, ["bolt"], settings, shown=0)
    rows = [row for series in series_of(read_all(results)[0]) for row in series.rows]
    assert sorted(figures._telling_apart(rows)) == ["aggregation arithmetic", "aggregation harmonic"]


CLAIM = {
    "claim": "some_paper", "dataset": "parts", "k_shot": 1, "object": "bolt", "metric": "auroc_sp", "claimed": 80.0,
    "difference": -2.0, "interval_low": 77.0, "interval_high": 79.0, "suspect": False, "runs": ["ab"],
}  # fmt: skip


def test_differences_to_a_claim_with_their_intervals() -> None:
    claims = [CLAIM, CLAIM | {"object": "nut_$x$", "difference": 1.5, "interval_low": None, "interval_high": None}]
    figure = figures.claim_differences([*claims, CLAIM | {"object": "mean"}])
    assert figure is not None
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["nut_$x$", "bolt"]
    drawn = [line.get_xdata() for line in axes.lines if len(np.unique(line.get_ydata())) == 1]
    assert any(np.array_equal(x, [-3, -1]) for x in drawn)  # the interval around −2
    assert figures.claim_differences([CLAIM | {"object": "mean"}]) is None


def test_a_row_of_pictures_shows_image_truth_and_map(results: Path) -> None:
    run_id = make_run(results, ["bolt", "nut"], config("parts"))
    records, _ = read_all(results)
    figure = figures.qualitative(results, records, 4)
    assert figure is not None
    assert len(figure.axes) == 12
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == [
        "bolt\ncrack",
        "nut\ncrack",
        "bolt\ncrack",
        "nut\ncrack",
    ]
    image, truth, anomaly_map = (axes.images[0].get_array() for axes in figure.axes[:3])
    np.testing.assert_array_equal(image, truth)
    assert anomaly_map.shape == image.shape
    corners = np.vstack([line.get_xydata() for line in figure.axes[1].lines])
    # The mask is rows 4–11 and columns 6–17 of 24; the picture is 60 × 40.
    np.testing.assert_allclose(corners.min(0), [6 / 24 * 60 - 0.5, 4 / 24 * 40 - 0.5], atol=1.5)
    np.testing.assert_allclose(corners.max(0), [18 / 24 * 60 - 0.5, 12 / 24 * 40 - 0.5], atol=1.5)
    assert run_id
    for path in (results / "pictures" / "images").iterdir():
        path.unlink()
    assert figures.qualitative(results, records, 4) is None


def test_the_command_writes_every_format_and_says_where(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(results)
    (results / "claims").mkdir()
    (results / "claims" / "claims.json").write_text(json.dumps({"claims": [CLAIM, CLAIM | {"suspect": True}]}))
    arguments = ["figures", "--results-dir", str(results), "--format", "pdf", "png", "svg", "--metric", "auroc_sp"]
    assert main([*arguments, "--rows", "1"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in paths} >= {
        "k-parts-auroc_sp.pdf", "ablation-parts-k0-auroc_sp.png", "claim-some_paper-parts-k1-auroc_sp.svg"
    }  # fmt: skip
    before = {path: path.read_bytes() for path in paths}
    assert all(content[:5] == b"%PDF-" for path, content in before.items() if path.suffix == ".pdf")
    assert min(Image.open(path).width for path in paths if path.suffix == ".png") > 800
    assert main([*arguments, "--rows", "1"]) == 0
    assert {path: path.read_bytes() for path in paths} == before  # equal records, equal bytes


def test_tables_are_made_again_from_records_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(results, shown=0)
    assert main(["tables", "--results-dir", str(results)]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert len(names) == len(set(names)) == 11 * 3 + 4 * 3 + 1  # runs, seeds, overview
    assert all((results / "tables" / name).stat().st_size for name in names)


def test_nothing_to_draw_and_broken_claims_are_said(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(results, ["bolt"], config("parts"), shown=0)
    assert main(["figures", "--results-dir", str(results)]) == 1
    assert "nothing to draw" in capsys.readouterr().err
    (results / "claims").mkdir()
    (results / "claims" / "claims.json").write_text('{"claims": [1]}')
    with pytest.raises(InputError, match=r"claims\.json is not usable"):
        figures.write_figures(results, read_all(results)[0])
