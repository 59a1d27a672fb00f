"""The published numbers as they are committed, and what is said about a folder that is not so."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.claims.builders import CLAIMS
from winclip_bench.claims.published import SETTINGS, default_folder, read_claims, select
from winclip_bench.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the published numbers to spoil."""
    return Path(shutil.copytree(default_folder(), tmp_path / "published"))


def resettle(folder: Path, entry: dict[str, Any]) -> None:
    """Put an entry before all others of the settings."""
    settings = yaml.safe_load((folder / SETTINGS).read_text())
    settings["entries"].insert(0, entry)
    (folder / SETTINGS).write_text(yaml.safe_dump(settings))


def test_every_row_is_read() -> None:
    assert Counter(claim.claim for claim in CLAIMS) == {
        "winclip_paper": 186, "accurate_winclip": 1015, "winclip_ablations": 18, "clip_cpe": 33, "clip_embedding": 16,
    }  # fmt: skip


def test_every_claim_can_be_checked_or_says_why_not() -> None:
    for claim in CLAIMS:
        settings = claim.settings
        assert bool(settings.outside) != bool(settings.options), claim
        if settings.outside is None:
            assert settings.weights and "runtime.precision" in settings.config, claim
            assert (settings.draws is not None) == (settings.k_shot > 0), claim
            assert settings.object == "mean" or settings.object in settings.counts, claim


def test_the_claims_of_winclip_need_its_weights_and_the_whole_dataset() -> None:
    for claim in CLAIMS:
        if claim.method == "winclip":
            assert len(claim.settings.weights) == 2
            assert len(claim.settings.counts) == {"mvtec": 15, "visa": 12}[claim.dataset]


def test_counts_are_in_the_shape_of_records() -> None:
    settings = next(claim.settings for claim in CLAIMS if claim.claim == "winclip_paper")
    assert settings.counts["bottle"] == {
        "train": 209, "test_good": 20, "test_anomalous": 63,
        "defects": {"broken_large": 20, "broken_small": 22, "contamination": 21, "good": 20},
    }  # fmt: skip


def test_an_entry_sets_a_row_in_the_words_of_records(folder: Path) -> None:
    rows = {"claim": "clip_cpe", "metric": "mean_f1"}
    means = {"dataset": "mvtec", "object": "hazelnut", "k_shot": 0}
    resettle(folder, {"rows": rows, "means": means, "metrics": {"mean_f1": "f1_macro"}, "config": {"stage": "two"}})
    claim = next(claim for claim in read_claims(folder) if claim.metric == "mean_f1")
    assert (claim.settings.dataset, claim.settings.object, claim.settings.metric) == ("mvtec", "hazelnut", "f1_macro")
    assert claim.settings.config == {"stage": "two"} and claim.settings.counts["hazelnut"]["train"] == 391
    assert claim.dataset == "mvtec hazelnut test (110 images)"  # as it was printed


def test_an_option_that_does_not_exist_yet_is_known_by_its_name(folder: Path) -> None:
    resettle(folder, {"rows": {"claim": "clip_cpe"}, "options": {"method": "not_written_yet"}})
    claim = next(claim for claim in read_claims(folder) if claim.claim == "clip_cpe")
    assert claim.settings.options == {"method": {"name": "not_written_yet"}}


def test_claims_are_selected_by_their_source() -> None:
    assert {claim.claim for claim in select(CLAIMS, ["clip_cpe", "winclip_paper"])} == {"clip_cpe", "winclip_paper"}
    assert select(CLAIMS, []) == CLAIMS
    with pytest.raises(InputError, match=r"--claim winclip is unknown; there are accurate_winclip, clip_cpe"):
        select(CLAIMS, ["winclip"])


HEAD = "claim,method,dataset,k_shot,object,metric,value,std,quality\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("winclip.csv", HEAD + "winclip_paper,winclip,mvtec,0,mean,f1_px,much,,\n", "line 2: value, std or k_shot is"),
        (
            "winclip.csv",
            HEAD + "winclip_paper,winclip,mvtec,0,mean,f1_px,nan,,\n",
            "line 2: value, std and k_shot must",
        ),
        (
            "winclip.csv",
            HEAD + "winclip_paper,winclip,mvtec,0,mean,f1_px,1,-2,\n",
            "line 2: value, std and k_shot must",
        ),
        ("winclip.csv", HEAD + "winclip_paper,winclip,mvtec,0\n", "line 2: the row does not fit the head"),
        ("winclip.csv", HEAD + "winclip_paper,winclip,mvtec,0,mean,f1_px,1,,,more\n", "line 2: the row does not fit"),
        ("winclip.csv", "a,b\n1,2\n", "line 2: the row does not fit the head"),
        ("winclip.csv", HEAD + 2 * "winclip_paper,winclip,mvtec,0,mean,f1_px,1,,\n", "holds the claim .* twice"),
        ("winclip.csv", HEAD + "nobody,winclip,mvtec,0,mean,f1_px,1,,\n", "no entry of settings.yaml is about this"),
        ("settings.yaml", "entries: {", "settings.yaml cannot be read"),
        ("settings.yaml", "- entries", "settings.yaml is not a map"),
        ("settings.yaml", "entries: []", "needs the list entries and the map weights"),
        ("settings.yaml", "{weights: {}, entries: [{experiment: a}]}", "entry 1 has other keys"),
        ("settings.yaml", "{weights: {}, entries: [{rows: {}, colour: red}]}", "entry 1 has other keys"),
        ("settings.yaml", "{weights: {}, entries: [{rows: []}]}", "entry 1: rows is not a map"),
        ("settings.yaml", "{weights: {}, entries: [{rows: {}, weights: a}]}", "entry 1: the weights a are not among"),
        ("dataset_counts.json", "{", "dataset_counts.json cannot be read"),
        ("dataset_counts.json", '{"mvtec": {}}', "dataset_counts.json is not as the counts are written"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(folder: Path, name: str, content: str, sentence: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_claims(folder)
    assert Path(name).stem in str(caught.value) or "holds the claim" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_said(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.csv"):
        path.unlink()
    with pytest.raises(InputError, match="holds no claims"):
        read_claims(folder)
    with pytest.raises(InputError, match="cannot be read"):
        read_claims(tmp_path / "nowhere")
