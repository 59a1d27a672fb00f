"""Records from elsewhere: whatever their fields say is shown, and neither obeyed nor taken for markup."""

import csv
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.results import config, make_run
from tests.report.test_page import Parsed, all_pages, parse
from tests.report.test_typing import PREDICTED, typed
from winclip_bench import pictures, records
from winclip_bench.claims.__main__ import main as claims
from winclip_bench.claims.published import default_folder, read_claims
from winclip_bench.errors import printable
from winclip_bench.records import Record
from winclip_bench.report import gap, tables
from winclip_bench.report.__main__ import main as report
from winclip_bench.report.page.command import rerun_command
from winclip_bench.report.typing import write_typing

# Names of categories and data sets: no "/" and few bytes. Other texts may hold anything.
NAME = "=1+1<img src=x onerror=alert(1)>\"'\x1b]0;owned\x07\u202e|`[x](javascript:1)\\input{x}$%{{7*7}}"
TEXT = NAME + (
    "</td></script><script>alert(2)</script>\n\n# heading\r\n<svg/onload=alert(3)>{% raw %}\\write18{ls}\x9b31m' ; ls #"
)
HARMLESS = ("some name", "some text")
KEPT = {"run_id", "sha256", "dataset", "category", "stage", "schema", "outline", "object", "runs"}  # have a form
COMMANDS = {  # everything in LaTeX's tables
    "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "par", "footnotesize", "pm",
    "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar", "textperiodcentered",
}  # fmt: skip


def poisoned(value: Any, name: str, text: str) -> Any:
    """A value with `text` in the place of every string, and once more below every key."""
    if isinstance(value, dict):
        return {key: item if key in KEPT else poisoned(item, name, text) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, name, text) for item in value]
    return text if isinstance(value, str) else value


def hostile_record(record: Record, name: str, text: str) -> Record:
    """A record, of a category of that name, with that text in every field that may hold any."""
    content = json.loads(records.to_json(record))
    shown = {key: poisoned(content[key], name, text) for key in ("config", "warnings", "provenance", "references")}
    shown["config"]["dataset"]["name"] = name
    shown["config"]["dataset"]["categories"] = [name, "nut"]
    shown["config"][text] = text
    shown["provenance"] |= {"git": {"commit": text, "dirty": True}, "versions": {text: text}, "machine": {text: text}}
    counts = {**content["counts"], "test": text, "test_good": text, "test_anomalous": text, "defects": {text: text}}
    metrics = {**content["metrics"], text: None, "aupro": None}
    return replace(
        record,
        **shown,
        dataset=name,
        category=name,
        counts=counts,
        metrics=metrics,
        undefined={key: text for key, value in metrics.items() if value is None},
        timing={**content["timing"], text: 1.0},
    )


def hostile_results(folder: Path, name: str, text: str) -> Path:
    """A results folder of which every file says so."""
    results = folder / "results"
    for k in (0, 2):
        for seed in range(1 + (k > 0)):
            settings = config(name, k=k, seed=seed)
            run_id = make_run(results, [name], settings, images=4, defect=text.replace("/", "|"))
            (path,) = results.glob(f"records/*/{run_id}/*.json")
            record = hostile_record(records.read(path), name, text)
            record.config["seed"], record.config["k_shot"] = seed, k  # type: ignore[index]
            path.write_bytes(records.to_json(record))
            index = pictures.index_path(results, run_id, name)
            index.write_text(json.dumps(poisoned(json.loads(index.read_text()), name, text)))
    mine = hostile_record(typed(PREDICTED), name, text)
    path = records.record_path(results, name, mine.run_id, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(records.to_json(mine))
    claim = {"claim": text, "metric": "auroc_sp", "claimed": 51.8, "difference": -1.8, "verdict": text}
    (results / "claims").mkdir()
    (results / "claims" / "claims.json").write_text(
        json.dumps({"claims": [{**claim, "object": "mean", "runs": [run_id]}]})
    )
    return results


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_results(tmp_path_factory.mktemp("hostile"), NAME, TEXT)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_results(tmp_path_factory.mktemp("harmless"), *HARMLESS)


def shape(parsed: Parsed) -> list[tuple[str, tuple[str, ...]]]:
    """Elements and their attributes, sorted: names decide in which order runs stand."""
    return sorted(parsed.tags)


def test_a_page_has_the_elements_that_it_has_of_harmless_records(results: Path, harmless: Path) -> None:
    for folder in (results, harmless):
        assert report(["page", "--results-dir", str(folder)]) == 0
    pages, others = all_pages(results), all_pages(harmless)
    assert len(pages) == len(others) == 5
    assert sorted(shape(parse(page)) for page in pages) == sorted(shape(parse(page)) for page in others)
    for page in pages:
        parsed = parse(page)
        assert not {name for _, names in parsed.tags for name in names if name.startswith("on") or name == "style"}
        assert not [link for link in parsed.links if re.match("(?i)[a-z]+:|//", link)]
        text = page.read_text(encoding="utf-8")
        assert all(character.isprintable() or character == "\n" for character in text)
        said = " ".join(found for texts in parsed.texts.values() for found in texts)
        assert "alert(1)" in said
        assert "{{7*7}}" in said, "a template is filled in twice"


def test_the_command_on_a_page_is_one_of_words(results: Path) -> None:
    """Also as it is shown, for which line ends become visible: no part of it ends the command or begins another."""
    for record in records.read_all(results)[0]:
        given = rerun_command(dict(record.config))
        words, shown = shlex.split(given), shlex.split(printable(given))
        assert words[:2] == shown[:2] == ["python", "run.py"]
        assert len(words) == len(shown) > 5
        assert all("=" in word for word in words[2:])
        assert list(shlex.shlex(printable(given), posix=True, punctuation_chars=True)).count(";") == 0


def columns(line: str) -> int:
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))


def test_markdown_shows_the_names_as_text(results: Path, harmless: Path) -> None:
    counts = []
    for folder in (results, harmless):
        assert report(["tables", "--results-dir", str(folder)]) == 0
        write_typing(folder, records.read_all(folder)[0])
        counts.append({})
        for path in sorted((folder / "tables").glob("*.md")):
            text = path.read_text(encoding="utf-8")
            assert "<" not in text, path
            assert all(character.isprintable() or character == "\n" for character in text)
            assert not re.search(r"(?<!\\)\]\(", text), "a link"
            assert not [line for line in text.splitlines() if line.startswith("# ")]
            kind = path.name if path.stem in ("overview", "stages") else path.name[:5]
            counts[-1].setdefault(kind, []).append([columns(line) for line in text.splitlines() if line[:1] == "|"])
    assert {kind: sorted(of) for kind, of in counts[0].items() if kind in ("overview.md", "stages.md")} == {
        kind: sorted(of) for kind, of in counts[1].items() if kind in ("overview.md", "stages.md")
    }


def test_a_spreadsheet_finds_no_formula(results: Path) -> None:
    assert report(["tables", "--results-dir", str(results)]) == 0
    paths = sorted((results / "tables").glob("*.csv"))
    assert paths
    for path in paths:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        assert {len(row) for row in rows} == {len(rows[0])}
        labels = [row[0] for row in rows]
        assert any("1+1" in label for label in labels)
        for row in rows:
            assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n", " ="))
            assert all(character.isprintable() for cell in row for character in cell)


def test_latex_obeys_nothing(results: Path) -> None:
    assert report(["tables", "--results-dir", str(results)]) == 0
    paths = sorted((results / "tables").glob("*.tex"))
    assert paths
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "textbackslash{}input" in text
        assert set(re.findall(r"\\([A-Za-z@]+)", text)) <= COMMANDS
        assert all(character.isprintable() or character == "\n" for character in text)
        unescaped = re.sub(r"\\[\\{}&%$#_]", "", text)
        assert "%" not in unescaped, "the rest of a line would be a comment"
        assert unescaped.count("{") == unescaped.count("}")
        assert not re.search(r"\^\^", unescaped), "a character by its number"


def test_figures_take_any_text(results: Path, tmp_path: Path) -> None:
    results = shutil.copytree(results, tmp_path / "results")
    shutil.rmtree(results / "claims")
    assert report(["figures", "--results-dir", str(results), "--format", "svg", "--rows", "1"]) == 0
    drawn = list((results / "figures").glob("**/*.svg"))
    assert drawn
    for path in drawn:
        text = path.read_text(encoding="utf-8")
        assert not re.search("<script|<img|<svg/|onerror=|onload=", re.sub("<!--.*?-->", "", text, flags=re.DOTALL))


def test_claims_take_any_text(results: Path, tmp_path: Path) -> None:
    name = a_source()
    assert claims(["--results-dir", str(results), "--out", str(tmp_path), "--claim", name]) == 0
    for path in tmp_path.iterdir():
        text = path.read_text(encoding="utf-8")
        assert all(character.isprintable() or character == "\n" for character in text)


def a_source() -> str:
    """A source of published numbers; one will do."""
    return read_claims(default_folder())[0].claim


def run_gap(results: Path) -> int:
    return gap.main([str(results)])


@pytest.mark.parametrize(
    "run",
    [
        lambda results: report(["page", "--results-dir", str(results)]),
        lambda results: report(["tables", "--results-dir", str(results)]),
        lambda results: claims(["--results-dir", str(results), "--out", str(results / "c"), "--claim", a_source()]),
        run_gap,
    ],
    ids=["page", "tables", "claims", "gap"],
)
def test_a_terminal_is_only_written_to(
    results: Path, capsys: pytest.CaptureFixture[str], run: Callable[[Path], int]
) -> None:
    broken = next((results / "records").glob("*/*/*.json")).with_name(f"broken{NAME}.json")
    broken.write_text(json.dumps({"schema": TEXT}))
    try:
        run(results)
    finally:
        broken.unlink()
    printed = capsys.readouterr()
    assert "is not a usable record" in printed.err
    assert all(character.isprintable() or character == "\n" for character in printed.out + printed.err)


def test_the_printed_table_of_a_hostile_record(results: Path) -> None:
    for record in records.read_all(results)[0]:
        text = tables.to_markdown(tables.table([record], reasons={"nut": TEXT}, expected=[record.category, "nut"]))
        assert all(character.isprintable() or character == "\n" for character in text)
        assert "<" not in text
