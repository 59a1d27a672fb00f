"""The presets: what each one says, and that whole runs under two of them give what those projects compute."""

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import yaml

from tests.clip.models import save_checkpoint
from tests.data.builders import paint, paint_mask
from tests.helpers import REPOSITORY, command, jobs, read_records
from tests.methods.peers import Peer
from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone
from winclip_bench.config import ProtocolConfig
from winclip_bench.metrics import PIXEL_METRICS, SAMPLE_METRICS

Load = Callable[[str], Backbone]
PRESETS = ("paper", "accurate_winclip", "anomalib", "mala_lab")
FIELDS = {field.name for field in fields(ProtocolConfig)} - {"name", "pixels", "training"}  # those are of other methods
ARCHITECTURE = "test-native"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_states_every_field_itself(preset: str) -> None:
    content = yaml.safe_load((REPOSITORY / f"conf/protocol/{preset}.yaml").read_text(encoding="utf-8"))
    stated = content.get("protocol", content).keys()
    assert stated == {"name", *FIELDS}


@pytest.mark.parametrize(
    ("preset", "prompts", "lines", "distinct"),
    [
        ("paper", "winclip", 22, 22),
        ("mala_lab", "winclip", 22, 22),
        ("accurate_winclip", "accurate_winclip", 21, 20),
        ("anomalib", "accurate_winclip", 21, 20),
    ],
)
def test_a_preset_brings_its_prompts(preset: str, prompts: str, lines: int, distinct: int) -> None:
    for more in ([], ["dataset=mvtec"], ["experiment=zero_shot", "dataset=visa"]):
        (config,) = jobs(f"protocol={preset}", *more)
        assert (config.protocol.name, config.prompts.name) == (preset, prompts)
        assert len(config.prompts.templates) == lines
        assert len(set(config.prompts.templates)) == distinct
        assert (len(config.prompts.normal_states), len(config.prompts.anomalous_states)) == (7, 4)


@pytest.mark.parametrize("preset", PRESETS)
def test_prompts_on_the_command_line_win(preset: str) -> None:
    for order in (1, -1):
        (config,) = jobs(*[f"protocol={preset}", "prompts=two_plain"][::order])
        assert (config.protocol.name, config.prompts.name) == (preset, "two_plain")
    (config,) = jobs(f"protocol={preset}", "protocol.temperature=0.5", "protocol.class_words.lid=cover")
    assert (config.protocol.temperature, config.protocol.class_words["lid"]) == (0.5, "cover")


def test_a_sweep_over_presets_gives_each_its_own_prompts() -> None:
    configs = jobs("-m", f"protocol={','.join(PRESETS)}")
    assert [config.prompts.name for config in configs] == ["winclip", "accurate_winclip", "accurate_winclip", "winclip"]


def test_presets_differ_where_the_projects_do() -> None:
    found = {preset: asdict(jobs(f"protocol={preset}")[0].protocol) for preset in PRESETS}
    differing = {
        name for name in found["paper"] if name != "name" and len({str(found[preset][name]) for preset in PRESETS}) > 1
    }
    assert differing == FIELDS


def test_the_gap_goes_from_one_preset_to_the_other_one_field_at_a_time() -> None:
    configs = jobs("experiment=protocol_gap", "dataset=mvtec", "k_shot=1")
    way = [{**asdict(config.protocol), "prompts": config.prompts.templates} for config in configs]
    assert way[0]["name"] == "accurate_winclip"
    for before, after in pairwise(way):
        changed = {name for name in after if after[name] != before[name]} - {"name"}
        assert changed in ({"class_name", "class_words"}, *({name} for name in after))
    (paper,) = jobs("protocol=paper")
    assert way[-1] == {**asdict(paper.protocol), "prompts": paper.prompts.templates, "name": way[-1]["name"]}
    assert Counter(len(config.prompts.templates) for config in configs) == {21: 1, 22: 9}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A category with an underscore in its name, of square, wide and high images."""
    folder = tmp_path_factory.mktemp("peers") / "bolt_nut"
    sizes = ((80, 80), (130, 90), (64, 97))
    for number in range(4):
        paint(folder / f"train/good/{number}.png", number, sizes[number % 3])
    for number, name in enumerate(("good/0", "good/1", "crack/0", "dent/0")):
        paint(folder / f"test/{name}.png", 10 + number, sizes[number % 3])
        if "good" not in name:
            paint_mask(folder / f"ground_truth/{name}_mask.png", size=sizes[number % 3])
    return folder


@pytest.fixture(scope="module")
def checkpoint(architectures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "peer.pt"
    save_checkpoint(ARCHITECTURE, path, seed=3)
    return path


def run(parts: Path, checkpoint: Path, results: Path, *more: object) -> dict[str, object]:
    """The one record of a run over the category."""
    settings = {
        "dataset": "folder",
        "dataset.root": parts,
        "results_dir": results,
        "runtime.cache_dir": results.parent / "cache",
        "backbone.name": "test",
        "backbone.architecture": ARCHITECTURE,
        "backbone.pretrained": checkpoint,
    }
    outcome = command(*(f"{key}={value}" for key, value in settings.items()), *more)
    assert outcome.code == 0, outcome.err
    (record,) = read_records(results).values()
    return record


@pytest.mark.parametrize("k", [0, 4])
@pytest.mark.parametrize("name", ["accurate_winclip", "anomalib"])
def test_runs_agree_with_what_the_projects_compute(
    parts: Path, checkpoint: Path, tmp_path: Path, name: Literal["accurate_winclip", "anomalib"], k: int
) -> None:
    references = sorted((parts / "train/good").iterdir())[:k]
    (tmp_path / "references.txt").write_text("\n".join(map(str, references)))
    few = [f"k_shot={k}", f"references.file={tmp_path / 'references.txt'}"] if k else []
    results = tmp_path / "results"
    run(parts, checkpoint, results, f"protocol={name}", "save_maps=true", *few)
    (table,) = results.glob("records/*/*/*.scores.csv")
    with table.open(encoding="utf-8", newline="") as file:
        scores = {row["path"]: float(row["image_score"]) for row in csv.DictReader(file)}
    (archive,) = results.glob("maps/*/*.npz")

    backbone = load_backbone(find_weights(ARCHITECTURE, str(checkpoint)))
    peer = Peer(backbone.model, ARCHITECTURE, backbone.image_size, name)
    expected_scores, expected_maps = peer.run([parts / key for key in scores], references, "bolt_nut")
    np.testing.assert_allclose(list(scores.values()), expected_scores, atol=1e-5, rtol=0)
    with np.load(archive) as maps:
        for key, expected in zip(scores, expected_maps, strict=True):
            np.testing.assert_allclose(maps[key], expected, atol=1e-5, rtol=0)
    assert np.ptp(expected_maps) > 0.01  # otherwise agreement would mean little


@pytest.mark.parametrize("k", [0, 2])
def test_mala_lab_has_image_scores_and_says_why_there_is_no_more(
    parts: Path, checkpoint: Path, tmp_path: Path, k: int
) -> None:
    record = run(parts, checkpoint, tmp_path / "results", "protocol=mala_lab", f"k_shot={k}")
    metrics, undefined = record["metrics"], record["undefined"]
    assert all(metrics[name] is not None for name in SAMPLE_METRICS)
    assert all(metrics[name] is None for name in PIXEL_METRICS)
    assert {undefined[name] for name in PIXEL_METRICS} == {"the method and the protocol make no anomaly map"}


def test_maps_cannot_be_kept_where_there_are_none() -> None:
    outcome = command("protocol=mala_lab", "save_maps=true")
    assert outcome.code != 0
    assert "protocol.map_combination" in outcome.err


def test_which_aupro_a_project_reports_is_no_part_of_a_run(parts: Path, checkpoint: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    record = run(parts, checkpoint, results, "protocol=accurate_winclip", "prompts=two_plain")
    again = run(parts, checkpoint, results, "protocol=accurate_winclip", "prompts=two_plain", "protocol.aupro=exact")
    assert record["run_id"] == again["run_id"]
    for mask_resize in ("nearest", "nearest_floor"):
        other = tmp_path / mask_resize / "results"
        found = run(
            parts,
            checkpoint,
            other,
            "protocol=accurate_winclip",
            "prompts=two_plain",
            f"protocol.mask_resize={mask_resize}",
        )
        assert found["run_id"] != record["run_id"]
