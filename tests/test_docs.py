"""The commands and the Python of the documentation do what it says; those of run.py are composed in test_config."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers import REPOSITORY, command
from tests.report.results import config, make_run
from winclip_bench import cli
from winclip_bench.data.demo import make_sample

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# From a results folder, in seconds.
RUN = {"winclip_bench.report", "winclip_bench.claims", "winclip_bench.features", "winclip_bench.status"}
COMPOSED = {"winclip_bench.influence", "winclip_bench.data"}  # take the settings of run.py


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def lines() -> list[tuple[str, list[str]]]:
    """Every command of a block of shell, as words, with the page that it is on."""
    found = []
    for path in PAGES:
        for block in blocks(path, "bash"):
            every = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
            found += [(path.name, words) for words in every if words]
    return found


MODULES = sorted({(page, *words[2:]) for page, words in lines() if words[:2] == ["python", "-m"]})
PREDICTIONS = [words[2:] for _, words in lines() if words[:2] == ["winclip-bench", "predict"]]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with parts to look at and some results in it, as a user has."""
    for split, defect, count in (("train", "good", 3), ("test", "good", 1), ("test", "stain", 1)):
        (tmp_path / "parts" / split / defect).mkdir(parents=True)
        for index in range(count):
            pixels = make_sample("tile", defect, split, index)[0]  # type: ignore[arg-type]
            Image.fromarray(pixels).save(tmp_path / "parts" / split / defect / f"{index}.png")
    for folder in ("results", "runs"):
        for k in (0, 1):
            make_run(tmp_path / folder, ["bolt", "nut"], config("mvtec", k=k), shown=4)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WINCLIP_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("words", MODULES, ids=" ".join)
def test_a_documented_module_takes_its_arguments(words: tuple[str, ...], workplace: Path) -> None:
    _, module, *arguments = words
    if module in COMPOSED:
        settings = [word for word in arguments if "=" in word]
        if arguments and arguments[0] != "download":
            assert settings
            cli.compose(settings)
        return
    name = f"{module}.__main__" if (REPOSITORY / "src" / module.replace(".", "/")).is_dir() else module
    main = import_module(name).main
    if module in RUN and not {"KEY", "…"} & set(arguments):
        assert main(arguments) in (0, None)


@pytest.mark.parametrize("words", PREDICTIONS, ids=" ".join)
def test_a_documented_prediction_makes_heatmaps(words: list[str], workplace: Path) -> None:
    outcome = command("predict", *words)
    assert outcome.code == 0, outcome.err
    out = workplace / words[words.index("--out") + 1]
    assert len(list((out / "heatmaps").glob("*.png"))) == 2
    assert (out / "predictions.csv").read_text().startswith("path,score,decision,heatmap\n")


def test_the_python_of_own_parts(workplace: Path) -> None:
    (snippet,) = blocks(REPOSITORY / "docs" / "own_parts.md", "python")
    names = {
        "references": sorted((workplace / "parts/train/good").iterdir()),
        "images": sorted((workplace / "parts/test").glob("*/*")),
    }
    scope: dict[str, object] = dict(names)
    exec(snippet, scope)
    prediction = scope["prediction"]
    assert len(prediction.scores) == len(prediction.maps) == 2  # type: ignore[attr-defined]


def test_every_link_between_pages_leads_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
