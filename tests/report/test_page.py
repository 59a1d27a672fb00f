"""The page: what it says, that its links lead somewhere, and that no name becomes markup."""

import base64
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import arguments, command, jobs, read_records, without
from tests.report.results import config, make_run
from winclip_bench import pictures, records
from winclip_bench.config import as_dict
from winclip_bench.errors import InputError
from winclip_bench.report.__main__ import main
from winclip_bench.report.page import write_page
from winclip_bench.report.page.command import rerun_command
from winclip_bench.report.tables import METRICS

HOSTILE = """<img src=x onerror="alert(1)">'"&amp;</style></script><script>alert(2)</script>#?%2e%2e é"""[:120].replace(
    "/", "\\"
)
VOID = {"meta", "img", "input", "link", "br"}


@dataclass
class Parsed(HTMLParser):
    """A page as a browser's parser sees it."""

    tags: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    policy: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        given = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := given.get(name))]
        self.ids |= {given["id"]} if given.get("id") else set()
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"] or ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID and tag not in ("path", "circle", "rect", "polyline", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def parse(path: Path) -> Parsed:
    parsed = Parsed()
    parsed.feed(path.read_text(encoding="utf-8"))
    parsed.close()
    assert not parsed.open
    return parsed


def all_pages(results: Path) -> list[Path]:
    return [results / "index.html", *sorted(results.glob("page/*/*.html"))]


def cells(parsed: Parsed) -> list[list[str]]:
    return [[" ".join(cell.split()) for cell in row] for row in parsed.rows]


@pytest.mark.parametrize("name", ["bolt", HOSTILE, "..%2f", "javascript:alert(1)", "a\x1b[31m\nb", "\udcff"])
def test_links_lead_to_files_whatever_the_names(tmp_path: Path, name: str) -> None:
    results = tmp_path / "results"
    make_run(results, [name, "nut"], config(name, k=2))
    make_run(results, [name, "nut"], config(name, k=2, seed=1))
    make_run(results, [name], config("other"))
    write_page(results)
    pages = all_pages(results)
    assert len(pages) == 4
    for page in pages:
        parsed = parse(page)
        assert parsed.links
        for link in parsed.links:
            if link.startswith("#"):
                assert link[1:] in parsed.ids
                continue
            assert not link.startswith(("/", "javascript:", "http", "data:", "//"))
            target = page.parent / unquote_to_bytes(link).decode("utf-8", "surrogateescape")
            assert target.is_file(), link
            assert target.resolve().is_relative_to(results.resolve())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=40).filter(
            lambda n: n not in (".", "..")
        ),
        min_size=3,
        max_size=3,
        unique=True,
    )
)
def test_no_name_becomes_markup(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """The elements and attributes of a page are those of the same page with harmless names."""
    shapes = []
    for dataset, category, text in (names, ["parts", "bolt", "some text"]):
        results = tmp_path_factory.mktemp("hostile") / "results"
        try:
            settings_ = config(dataset, k=1)
            settings_["prompts"]["name"] = text
            make_run(results, [category], settings_, images=4, defect="crack" + text, warnings=[text])
        except InputError:  # no file can be called so
            return
        write_page(results)
        shapes.append([parse(page).tags for page in all_pages(results)])
    assert shapes[0] == shapes[1]


def test_only_its_own_style_and_script_are_allowed(tmp_path: Path) -> None:
    make_run(tmp_path / "results", [HOSTILE], config(HOSTILE, k=1), defect=HOSTILE[:50], warnings=[HOSTILE])
    write_page(tmp_path / "results")
    for page in all_pages(tmp_path / "results"):
        parsed = parse(page)
        names = [tag for tag, _ in parsed.tags]
        attributes = {name for _, given in parsed.tags for name in given}
        assert not {name for name in attributes if name.startswith("on")} | attributes & {"style", "srcset", "action"}
        assert not {"iframe", "object", "embed", "base", "link"} & set(names)
        assert "default-src 'none'" in parsed.policy
        assert "unsafe" not in parsed.policy
        for tag in ("style", "script"):
            assert names.count(tag) == 1
            digest = base64.b64encode(hashlib.sha256("".join(parsed.texts[tag]).encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in parsed.policy
        assert HOSTILE in " ".join(text for texts in parsed.texts.values() for text in texts)


def test_overview_is_mean_and_spread_over_the_seeds(tmp_path: Path) -> None:
    values = {0: [0.70], 4: [0.80, 0.84, 0.91]}
    for k, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            numbers = dict.fromkeys(METRICS, value) | {"ap_px": None}
            make_run(tmp_path, ["bolt", "nut"], config("parts", k, seed), metrics=numbers, shown=0)
    write_page(tmp_path)
    head, zero, four = cells(parse(tmp_path / "index.html"))
    assert head == ["dataset", "method", "backbone", "k", *METRICS, "runs"]
    assert zero == ["parts", "WinCLIP", "demo (some_tag)", "0", *["70.0"] * 2, "–", *["70.0"] * 4, "open"]
    spread = f"{100 * fmean(values[4]):.1f} ± {100 * stdev(values[4]):.1f}"
    assert four[1:] == ["WinCLIP+", "demo (some_tag)", "4", *[spread] * 2, "–", *[spread] * 4, "seeds 0 1 2"]
    text = (tmp_path / "index.html").read_text()
    assert text.count('class="number best"') == 6
    assert text.index('class="number best"') > text.index(">WinCLIP+<")


def test_a_seed_counts_once(tmp_path: Path) -> None:
    for number in range(2):
        settings_ = config("parts", 4) | {"results_dir": str(number)}  # another run_id, the same configuration
        make_run(tmp_path, ["bolt"], settings_, metrics=dict.fromkeys(METRICS, 0.5), shown=0)
    write_page(tmp_path)
    assert [row[-1] for row in cells(parse(tmp_path / "index.html"))] == ["runs", "seed 0", "seed 0"]


def test_best_is_marked_per_dataset_and_ties_are_both_best(tmp_path: Path) -> None:
    for dataset, values in {"a": [0.5, 0.50001, 0.4], "b": [0.9, 0.8, 0.7], "alone": [1.0]}.items():
        for prompts, value in zip(("x", "y", "z"), values, strict=False):
            numbers = dict.fromkeys(METRICS, value)
            make_run(tmp_path, ["bolt"], config(dataset, prompts=prompts), metrics=numbers, shown=0)
    write_page(tmp_path)
    marked = [row.count('class="number best"') for row in (tmp_path / "index.html").read_text().split("<tr>")[2:]]
    assert marked == [7, 7, 0, 0, 7, 0, 0]


def test_differences_to_claims_stand_by_the_runs_they_are_of(tmp_path: Path) -> None:
    run_id = make_run(tmp_path, ["bolt"], config("parts"), metrics=dict.fromkeys(METRICS, 0.5), shown=0)
    make_run(tmp_path, ["bolt"], config("parts", prompts="two_plain"), metrics=dict.fromkeys(METRICS, 0.5), shown=0)
    claim = {"claim": "some_paper", "object": "mean", "metric": "auroc_sp", "claimed": 51.8, "difference": -1.8}
    claim |= {"verdict": "below", "runs": [run_id]}
    others = [claim | {"object": "bolt"}, claim | {"runs": []}, claim | {"runs": ["0" * 12]}]
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "claims.json").write_text(json.dumps({"claims": [claim, *others]}))
    assert write_page(tmp_path)[1] == []
    found = [cell for row in cells(parse(tmp_path / "index.html")) for cell in row if "some_paper" in cell]
    assert found == ["50.0−1.8 some_paper"]
    (tmp_path / "claims" / "claims.json").write_text("{")
    (broken,) = write_page(tmp_path)[1]
    assert "claims.json" in broken
    assert "some_paper" not in (tmp_path / "index.html").read_text()


def test_what_is_broken_costs_a_line_and_not_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = make_run(tmp_path, ["bolt", "nut", "screw"], config("parts", k=1))
    place = (tmp_path, "parts", run_id)
    records.record_path(*place, "bolt").write_text("{")
    records.scores_path(*place, "nut").write_text("path,label\nx,1\n")
    records.curves_path(*place, "nut").write_text("fpr,tpr,pro\n0,zero,0\n")
    pictures.index_path(tmp_path, run_id, "nut").write_text('{"pictures": [1]}')
    records.scores_path(*place, "screw").unlink()
    records.curves_path(*place, "screw").unlink()
    pictures.index_path(tmp_path, run_id, "screw").unlink()
    assert main(["page", "--results-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "index.html")
    assert printed.err.count("warning:") == 1
    assert "bolt.json" in printed.err
    assert "bolt.json" in (tmp_path / "index.html").read_text()
    (page,) = tmp_path.glob("page/parts/*.html")
    text = page.read_text()
    assert text.count("No image scores lie beside the record.") == 2
    assert text.count("No pixel curves lie beside the record") == 2
    assert "pictures.json is not usable" in text
    assert "No pictures were kept of this class" in text
    parse(page)


def test_an_empty_folder_and_one_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, broken = write_page(tmp_path)
    assert broken == []
    assert "No finished categories yet." in path.read_text()
    assert main(["page", "--results-dir", str(tmp_path / "nothing")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        make_run(tmp_path / name / "results", ["bolt"], config("parts", k=2))
        write_page(tmp_path / name / "results")
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "1", tmp_path / "2")
    )
    assert first == second


def test_many_pictures_are_loaded_late_and_take_few_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "results", ["bolt"], config("parts"), images=120, shown=120)
    write_page(tmp_path / "results")
    (page,) = (tmp_path / "results").glob("page/parts/*.html")
    text = page.read_text()
    assert text.count("<img ") == 360
    assert text.count("<img ") == text.count('loading="lazy"')
    assert page.stat().st_size < 120 * 3000
    assert text.split('<details class="more">')[0].count("Enlarge ") == 6
    assert (tmp_path / "results" / "index.html").stat().st_size < 60_000


def test_pictures_stand_in_order_of_their_error(tmp_path: Path) -> None:
    run_id = make_run(tmp_path / "results", ["bolt"], config("parts"), images=40, shown=12)
    write_page(tmp_path / "results")
    shown = pictures.read(tmp_path / "results", run_id, "bolt")
    assert shown is not None
    errors = [picture.error for picture in shown.pictures]
    assert len(errors) == 12
    assert errors == sorted(errors, reverse=True)
    (page,) = (tmp_path / "results").glob("page/parts/*.html")
    text = page.read_text()
    places = [text.index(f'aria-label="Enlarge {picture.path}"') for picture in shown.pictures]
    assert places == sorted(places)


COMMANDS = [
    [],
    ["k_shot=4", "seed=3", "scales=[2]"],
    ["dataset=folder", "dataset.root='/my parts/it\\'s'", "dataset.class_names={bolt: 'hex bolt, small'}", "k_shot=1"],
    ["dataset=mvtec", "dataset.root=/data/mvtec", "runtime.precision=bf16", "backbone.pretrained=/w/vit.pt"],
    [
        "prompts=two_plain",
        "prompts.templates=['a [s]!', 'it\\'s \\\\ a [s]', 'x: {[s]}, 50%']",
        "protocol.temperature=0.07",
    ],
    ["dataset=visa", "backbone=vit_b_32_openai", "scales=[]", "dataset.name=other"],
]


@pytest.mark.parametrize("given", COMMANDS, ids=lambda words: " ".join(words)[:40])
def test_the_command_makes_the_same_run(given: list[str]) -> None:
    (first,) = jobs(*given)
    words = shlex.split(rerun_command(as_dict(first)))
    assert words[:2] == ["python", "run.py"]
    (second,) = jobs(*words[2:])
    assert as_dict(second) == as_dict(first)


def test_a_run_ends_with_its_page_and_pictures_change_no_record(parts: Path, tmp_path: Path) -> None:
    with_pictures, none = tmp_path / "with" / "results", tmp_path / "none" / "results"
    outcome = command(*arguments(parts, with_pictures, "k_shot=1"))
    assert outcome.code == 0, outcome.err
    assert str(with_pictures / "index.html") in outcome.out.splitlines()
    assert command(*arguments(parts, none, "k_shot=1", "pictures=0")).code == 0
    assert not (none / "pictures").exists()
    assert (none / "index.html").exists()
    found, other = read_records(with_pictures), read_records(none)
    assert found.keys() == other.keys()
    for key, record in found.items():
        assert without(record, "timing", "config") == without(other[key], "timing", "config")
        shown = pictures.read(with_pictures, *key)
        assert shown is not None
        assert {picture.path for picture in shown.pictures} == {
            "test/good/000.png", "test/good/001.png", "test/crack/000.png", "test/dent/000.png"
        }  # fmt: skip
        for picture in shown.pictures:
            assert pictures.image_path(with_pictures, picture.sha256).is_file()
            assert bool(picture.outline) == bool(picture.label)
        for reference in record["references"]:
            assert pictures.image_path(with_pictures, reference["sha256"]).is_file()
    for page in all_pages(with_pictures):
        parse(page)


def test_a_disk_that_refuses_pictures_costs_a_warning(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "pictures").write_text("in the way")
    outcome = command(*arguments(parts, results, "dataset.categories=[bolt]"))
    assert outcome.code == 0
    assert "warning: bolt: without pictures: cannot write" in outcome.err
    assert len(read_records(results)) == 1
    (results / "page").rename(tmp_path / "moved")
    (results / "page").write_text("in the way")
    outcome = command(*arguments(parts, results, "dataset.categories=[bolt]"))
    assert outcome.code == 0
    assert "warning: no page: cannot write" in outcome.err
