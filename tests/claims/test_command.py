"""`python -m winclip_bench.claims`: what it writes and prints, and what it does with what is broken.

The golden files are what it makes of constructed records with every verdict. After a change that is meant, refresh
them and review their diff:

    REFRESH_GOLDEN=1 python -m pytest tests/claims/test_command.py
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.claims.builders import CLAIMS, claim, records_of
from winclip_bench.claims import render
from winclip_bench.claims.__main__ import main
from winclip_bench.claims.published import default_folder
from winclip_bench.claims.verdicts import Verdict, compare
from winclip_bench.records import Record, record_path, to_json, write_atomically

GOLDEN = Path(__file__).parent / "golden"
SPREAD = {0: -0.6, 1: -0.3, 2: 0.0, 3: 0.3, 4: 0.6}

ZERO_SHOT = claim("winclip_paper", "mvtec", 0, "auroc_sp").settings
FEW_SHOT = claim("winclip_paper", "mvtec", 4, "auroc_sp").settings
ONE_SHOT = claim("winclip_paper", "mvtec", 1, "auroc_sp").settings
VISA = claim("winclip_paper", "visa", 0, "auroc_sp").settings
ACCURATE = claim("accurate_winclip", "mvtec", 4, "auroc_sp").settings


def constructed() -> list[Record]:
    """Records that give every verdict, the suspect cell's included."""
    return [
        *records_of(ZERO_SHOT, 91.85),
        *records_of(ONE_SHOT, 93.0, [0]),
        *records_of(FEW_SHOT, dict.fromkeys(FEW_SHOT.counts, 94.8) | {"tile": 99.3}, SPREAD, SPREAD),
        *records_of(VISA, 76.0),
        *records_of(ACCURATE, 95.0, SPREAD, SPREAD),
    ]


def write(results_dir: Path, records: list[Record]) -> Path:
    for record in records:
        write_atomically(record_path(results_dir, record.dataset, record.run_id, record.category), to_json(record))
    return results_dir


@pytest.fixture
def results_dir(tmp_path: Path) -> Path:
    return write(tmp_path / "results", constructed())


def test_golden_files() -> None:
    of_interest = [
        found for found in CLAIMS
        if found.metric == "auroc_sp" and found.object in {"mean", "tile", "bottle", "pcb2"} and found.k_shot < 8
    ]  # fmt: skip
    results = compare(of_interest, constructed())
    made = {"claims.md": render.to_markdown(results), "claims.csv": render.to_csv(results)}
    made["claims.json"] = render.to_json(results)
    if os.environ.get("REFRESH_GOLDEN"):
        for name, content in made.items():
            (GOLDEN / name).write_text(content)
    assert {result.verdict for result in results} == set(Verdict)
    assert made == {name: (GOLDEN / name).read_text() for name in made}


def test_the_command_writes_three_files_and_prints_the_short_form(
    results_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results-dir", str(results_dir)]) == 0
    folder = results_dir / "claims"
    assert sorted(path.name for path in folder.iterdir()) == ["claims.csv", "claims.json", "claims.md"]
    out, err = capsys.readouterr()
    assert out.startswith("## SOTAVerified\n") and str(folder / "claims.md") in out and err == ""
    assert (folder / "claims.md").read_text().startswith(out.split("\n\n/")[0].rstrip())
    with (folder / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((folder / "claims.json").read_text())
    assert len(rows) == len(content["claims"]) == len(CLAIMS)
    for row, entry in zip(rows, content["claims"], strict=True):
        assert (row["verdict"], float(row["claimed"])) == (entry["verdict"], entry["claimed"])
        assert row["difference"] == ("–" if entry["difference"] is None else repr(entry["difference"]))


def test_the_eight_rows_of_sotaverified(results_dir: Path) -> None:
    main(["--results-dir", str(results_dir)])
    rows = json.loads((results_dir / "claims" / "claims.json").read_text())["sotaverified"]
    assert all(tuple(row) == ("dataset", "model", "metric", "claimed", "verified", "status") for row in rows)
    assert {row["metric"] for row in rows} == {"image AUROC"}
    assert [(row["dataset"], row["model"], row["claimed"], row["verified"], row["status"]) for row in rows] == [
        ("MVTec AD", "WinCLIP (zero-shot)", "91.8", "91.85", "verified"),
        ("MVTec AD", "WinCLIP+ (1-shot)", "93.1 ± 2.0", "–", "unverified: not comparable"),
        ("MVTec AD", "WinCLIP+ (2-shot)", "94.4 ± 1.3", "–", "unverified: not run"),
        ("MVTec AD", "WinCLIP+ (4-shot)", "95.2 ± 1.3", "95.10 [94.27, 95.93]", "verified"),
        ("VisA", "WinCLIP (zero-shot)", "78.1", "76.00", "not verified: measured below the claim"),
        ("VisA", "WinCLIP+ (1-shot)", "83.8 ± 4.0", "–", "unverified: not run"),
        ("VisA", "WinCLIP+ (2-shot)", "84.6 ± 2.4", "–", "unverified: not run"),
        ("VisA", "WinCLIP+ (4-shot)", "87.3 ± 1.8", "–", "unverified: not run"),
    ]


def test_the_suspect_cell_is_not_counted(results_dir: Path) -> None:
    main(["--results-dir", str(results_dir), "--claim", "winclip_paper"])
    text = (results_dir / "claims" / "claims.md").read_text()
    (line,) = (line for line in text.splitlines() if "SUSPECT" in line)
    assert [cell.strip() for cell in line.split("|")][3:8] == [
        "tile",
        "auroc_sp",
        "above",
        "SUSPECT, not counted",
        "87.9 ± 1.2",
    ]
    (counted,) = (line for line in text.splitlines() if line.startswith("| winclip_paper | mvtec     | 4 "))
    paper = [found for found in CLAIMS if (found.claim, found.dataset, found.k_shot) == ("winclip_paper", "mvtec", 4)]
    assert sum(int(cell) for cell in counted.split("|")[4:9]) == len(paper) - 1


def test_the_same_records_give_the_same_bytes(results_dir: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["--results-dir", str(results_dir), "--out", str(tmp_path / name)]) == 0
    assert not (results_dir / "claims").exists()
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_folder_without_records_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results-dir", str(tmp_path)]) == 0
    assert "not run" in capsys.readouterr().out


def test_a_broken_record_is_one_line_and_the_others_count(
    results_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = next(results_dir.glob("records/visa/*/candle.json"))
    broken.write_text(broken.read_text()[:100])
    assert main(["--results-dir", str(results_dir), "--claim", "winclip_paper"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and "candle.json is not a usable record" in err and err.count("\n") == 1
    rows = json.loads((results_dir / "claims" / "claims.json").read_text())["sotaverified"]
    assert next(row["status"] for row in rows if row["dataset"] == "VisA") == "unverified: not comparable"
    assert rows[0]["status"] == "verified"


def test_records_of_an_odd_shape_are_compared_without_a_traceback(results_dir: Path) -> None:
    for path in results_dir.glob("records/mvtec/*/*.json"):
        content = json.loads(path.read_text())
        content["counts"] = {"defects": 3, "train": None}
        content["config"]["scales"] = []
        content["config"]["references"] = None
        content["provenance"] = {}
        path.write_text(json.dumps(content))
    assert main(["--results-dir", str(results_dir)]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--results-dir", "{tmp}/nowhere"], "--results-dir .*nowhere is no folder"),
        (["--results-dir", "{tmp}", "--published", "{tmp}/nowhere"], "nowhere.* cannot be read"),
        (["--results-dir", "{tmp}", "--claim", "nobody"], "--claim nobody is unknown"),
        (["--results-dir", "{tmp}", "--out", "{tmp}/file/inside"], "cannot write"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert re.search(sentence, err)


def test_hostile_text_stays_in_its_cell(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(default_folder(), tmp_path / "published"))
    head = "claim,method,dataset,k_shot,object,metric,value,std,quality\n"
    (folder / "winclip.csv").write_text(head + "winclip_paper,winclip,mvtec,0,bottle,=1|<b>`\x1b,1,,SUSPECT\n")
    write(tmp_path, records_of(ZERO_SHOT, 50.0))
    assert main(["--results-dir", str(tmp_path), "--published", str(folder), "--claim", "winclip_paper"]) == 0
    text = (tmp_path / "claims" / "claims.md").read_text()
    (line,) = (line for line in text.splitlines() if "SUSPECT" in line)
    assert r"=1\|&lt;b&gt;\`\\x1b" in line
    assert ",'=1|<b>`\\x1b," in (tmp_path / "claims" / "claims.csv").read_text()


def test_torch_is_not_imported(results_dir: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from winclip_bench.claims.__main__ import main\n"
        f"code = main(['--results-dir', {str(results_dir)!r}])\n"
        "assert not {'torchvision', 'open_clip', 'timm', 'hydra', 'omegaconf'} & sys.modules.keys()\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
