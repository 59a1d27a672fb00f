"""Bad input: one sentence that names the file or setting, an exit code, no traceback, and the rest finishes."""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.data.builders import paint, paint_mask
from tests.helpers import (
    SEVEN,
    Outcome,
    arguments,
    command,
    counted_evaluations,
    make_category,
    read_records,
    read_table,
    run_ids,
)
from winclip_bench import runner
from winclip_bench.clip import backbone

Weights = dict[str, torch.Tensor]


@pytest.fixture
def copy(parts: Path, tmp_path: Path) -> Path:
    """The categories ``bolt`` and ``wood_panel``, to be spoilt."""
    return shutil.copytree(parts, tmp_path / "parts")


@pytest.fixture(scope="module")
def state() -> Weights:
    """Weights that fit the demo's backbone."""
    torch.manual_seed(5)
    model = open_clip.create_model("winclip-bench-demo", pretrained=None)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def one_sentence(outcome: Outcome, *words: object) -> str:
    """The only complaint of a failed command, which must hold these words."""
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    complaints = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1, outcome.err
    for word in words:
        assert str(word) in complaints[0]
    return complaints[0]


def only_bolt_fails(root: Path, results: Path, *words: object, settings: tuple[object, ...] = ()) -> str:
    """Run over both categories: the one that was spoilt is complained about, the other one finishes."""
    outcome = command(*arguments(root, results, *settings))
    complaint = one_sentence(outcome, "bolt", *words)
    assert [name for _, name in read_records(results)] == ["wood_panel"]
    (run,) = run_ids(results)
    rows = read_table(results, run)
    assert list(rows) == ["bolt", "wood_panel", "mean (1 of 2)"]
    for name in SEVEN:
        assert rows["bolt"][name] == "–"
        assert rows["mean (1 of 2)"][name] == rows["wood_panel"][name] != "–"
    printed = " ".join(outcome.out.split())
    assert "mean (1 of 2)" in printed
    assert "bolt has no record" in printed
    return complaint


# The dataset as a whole


@pytest.mark.parametrize("dataset", ["folder", "mvtec", "visa"])
@pytest.mark.parametrize("state", ["missing", "empty", "a file"])
def test_a_root_without_a_dataset(tmp_path: Path, dataset: str, state: str) -> None:
    root = tmp_path / "parts"
    if state == "empty":
        root.mkdir()
    elif state == "a file":
        root.write_text("not a folder")
    outcome = command(*arguments(root, tmp_path / "results"), f"dataset={dataset}")
    one_sentence(outcome, root, "dataset.root")
    assert read_records(tmp_path / "results") == {}


def test_a_root_that_is_not_set(tmp_path: Path) -> None:
    one_sentence(command("dataset=folder", "backbone=demo", f"results_dir={tmp_path}"), "dataset.root")


def test_an_unknown_category(parts: Path, tmp_path: Path) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt,screw]"))
    one_sentence(outcome, "dataset.categories", "'screw'", "bolt, wood_panel")
    assert read_records(tmp_path / "results") == {}


def test_a_bad_job_does_not_hinder_the_others_of_a_sweep(parts: Path, tmp_path: Path) -> None:
    settings = ("-m", "dataset.categories=[screw],[bolt]")
    one_sentence(command(*arguments(parts, tmp_path / "results", *settings)), "screw")
    assert [name for _, name in read_records(tmp_path / "results")] == ["bolt"]


# One category


def test_no_training_images(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "bolt/train")
    only_bolt_fails(copy, tmp_path / "results", "training images", "k_shot=1", settings=("k_shot=1",))
    assert command(*arguments(copy, tmp_path / "zero", "k_shot=0")).code == 0


def test_more_references_than_training_images(copy: Path, tmp_path: Path) -> None:
    (copy / "bolt/train/good/000.png").unlink()
    only_bolt_fails(copy, tmp_path / "results", "2 training images", "k_shot=3", settings=("k_shot=3",))


def test_no_test_images(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "bolt/test")
    only_bolt_fails(copy, tmp_path / "results", "test")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def as_truncated_jpeg(path: Path) -> None:
    Image.open(path).convert("RGB").save(path, "JPEG", quality=95)
    truncate(path)


def as_text(path: Path) -> None:
    path.write_text("not an image")


def as_nothing(path: Path) -> None:
    path.write_bytes(b"")


def as_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        *product(["test/good/001.png"], [truncate, as_truncated_jpeg, as_text, as_nothing, as_dead_link]),
        *product(["ground_truth/crack/000_mask.png"], [truncate, as_text]),
    ],
)
def test_a_file_that_cannot_be_read(copy: Path, tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    path = copy / "bolt" / name
    if path.stat().st_size < 400:  # a mask of few colours packs too well to be cut
        Image.effect_noise((64, 64), 90).save(path)
    spoil(path)
    only_bolt_fails(copy, tmp_path / "results", path)


def test_a_reference_that_cannot_be_read(copy: Path, tmp_path: Path) -> None:
    path = copy / "bolt/train/good/001.png"
    truncate(path)
    only_bolt_fails(copy, tmp_path / "results", path, settings=("k_shot=3",))
    # Nobody looks at it here.
    assert command(*arguments(copy, tmp_path / "results", "k_shot=0", "dataset.categories=[bolt]")).code == 0


def test_a_mask_of_another_size(copy: Path, tmp_path: Path) -> None:
    path = paint_mask(copy / "bolt/ground_truth/dent/000_mask.png", size=(64, 63))
    only_bolt_fails(copy, tmp_path / "results", path, "64×63", "64×64")


def test_an_anomalous_image_without_a_mask(copy: Path, tmp_path: Path) -> None:
    (copy / "bolt/ground_truth/dent/000_mask.png").unlink()
    only_bolt_fails(copy, tmp_path / "results", copy / "bolt/test/dent/000.png", "mask")


def test_a_reference_that_is_a_test_image(copy: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "bolt/test/good/000.png", copy / "bolt/train/good/001.png")
    words = ("train/good/001.png", "test/good/000.png")
    only_bolt_fails(copy, tmp_path / "results", *words, settings=("k_shot=3",))


def test_a_name_that_no_file_can_have_with_an_ending(copy: Path, tmp_path: Path) -> None:
    """A folder's name may be longer than what is left for a record's."""
    name = "bolt" + 240 * "x"
    (copy / "bolt").rename(copy / name)
    outcome = command(*arguments(copy, tmp_path / "results"))
    one_sentence(outcome, name)
    assert [name for _, name in read_records(tmp_path / "results")] == ["wood_panel"]


def test_a_fault_of_ours_in_one_category_does_not_hinder_the_others(parts: Path, tmp_path: Path) -> None:
    evaluate = runner.evaluate

    def stumble(run: Any, category: Any) -> Any:
        if category.name == "bolt":
            raise ZeroDivisionError("a fault")
        return evaluate(run, category)

    with mock.patch.object(runner, "evaluate", stumble):
        outcome = command(*arguments(parts, tmp_path / "results"))
    assert outcome.code != 0
    assert "ZeroDivisionError" in outcome.err
    assert [name for _, name in read_records(tmp_path / "results")] == ["wood_panel"]


@pytest.mark.parametrize(
    ("left", "known", "unknown"),
    [
        ("good", set(), {"auroc_px", "f1_px", "ap_px", "aupro", "auroc_sp", "f1_sp", "ap_sp"}),
        ("crack", {"auroc_px", "f1_px", "ap_px", "aupro"}, {"auroc_sp", "f1_sp", "ap_sp"}),
    ],
)
def test_one_label_only(copy: Path, tmp_path: Path, left: str, known: set[str], unknown: set[str]) -> None:
    for path in (copy / "bolt/test").iterdir():
        if path.name != left:
            shutil.rmtree(path)
    outcome = command(*arguments(copy, tmp_path / "results"))
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    (complaint,) = (line for line in outcome.err.splitlines() if "test images are" in line)
    assert "bolt" in complaint
    assert ("normal" if left == "good" else "anomalous") in complaint

    (run,) = run_ids(tmp_path / "results")
    record = read_records(tmp_path / "results")[run, "bolt"]
    assert {name for name in SEVEN if record["metrics"][name] is None} == unknown
    assert {name for name in SEVEN if record["metrics"][name] is not None} == known
    assert set(SEVEN) & set(record["undefined"]) == unknown
    assert all(record["undefined"].values())
    rows = read_table(tmp_path / "results", run)
    for name in SEVEN:
        assert (rows["bolt"][name] == "–") == (name in unknown)
        assert rows["wood_panel"][name] != "–"
        if name in unknown:
            assert rows["mean"][name] == rows["wood_panel"][name]
    assert "undefined in bolt" in " ".join(outcome.out.split())
    again = command(*arguments(copy, tmp_path / "results"))
    assert again.code == outcome.code, "the exit code does not depend on what was finished before"


def test_the_overview_says_over_how_many_classes_a_mean_is(copy: Path, tmp_path: Path) -> None:
    (copy / "bolt/ground_truth/dent/000_mask.png").unlink()
    assert command(*arguments(copy, tmp_path / "results")).code != 0
    (run,) = run_ids(tmp_path / "results")
    (row,) = (line for line in (tmp_path / "results/tables/overview.md").read_text().splitlines() if run in line)
    assert "1 of 2" in row


def test_a_run_without_any_finished_category(copy: Path, tmp_path: Path) -> None:
    for name in ("bolt", "wood_panel"):
        (copy / name / "ground_truth/dent/000_mask.png").unlink()
    outcome = command(*arguments(copy, tmp_path / "results"))
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert "0 of 2" in outcome.err


# References from a file


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("train/good/009.png", ("k_shot=1",), ("line 1", "train/good/009.png")),
        ("train/good/000.png\ntest/good/000.png", ("k_shot=2",), ("line 2", "test image")),
        ("train/good/000.png", ("k_shot=2",), ("references.file", "k_shot=2")),
        ("train/good/000.png", ("k_shot=0",), ("references.file", "k_shot=0")),
        ("# nothing\n", ("k_shot=1",), ("references.file", "no image")),
        (None, ("k_shot=1",), ("references.file", "cannot be read")),
        ("train/good/000.png", ("k_shot=1", "dataset.categories=null"), ("references.file", "one category")),
    ],
)
def test_a_file_of_references_that_is_wrong(
    parts: Path, tmp_path: Path, text: str | None, settings: tuple[str, ...], words: tuple[str, ...]
) -> None:
    listed = tmp_path / "references.txt"
    if text is not None:
        listed.write_text(text)
    settings = ("dataset.categories=[bolt]", f"references.file={listed}", *settings)
    one_sentence(command(*arguments(parts, tmp_path / "results", *settings)), *words)


def test_a_listed_reference_with_the_content_of_a_test_image(copy: Path, tmp_path: Path) -> None:
    same = shutil.copy(copy / "bolt/test/good/000.png", tmp_path / "same.png")
    listed = tmp_path / "references.txt"
    listed.write_text(str(same))
    settings = ("dataset.categories=[bolt]", f"references.file={listed}", "k_shot=1")
    one_sentence(command(*arguments(copy, tmp_path / "results", *settings)), "same.png", "test/good/000.png")


def test_a_listed_reference_that_is_no_image(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "fine.png").write_text("not an image")
    (tmp_path / "references.txt").write_text("fine.png")
    settings = ("dataset.categories=[bolt]", f"references.file={tmp_path / 'references.txt'}", "k_shot=1")
    one_sentence(command(*arguments(parts, tmp_path / "results", *settings)), tmp_path / "fine.png")


# The backbone


def test_an_unknown_architecture(parts: Path, tmp_path: Path) -> None:
    settings = ("backbone.architecture=ViT-B-16-plus-204",)
    complaint = one_sentence(command(*arguments(parts, tmp_path / "results", *settings)), "backbone.architecture")
    assert "ViT-B-16-plus-240" in complaint


@pytest.mark.parametrize("pretrained", ["laion400m_e99", "/nowhere/weights.pt", "."])
def test_unknown_weights(parts: Path, tmp_path: Path, pretrained: str) -> None:
    settings = ("backbone=vit_b_16_plus_240", f"backbone.pretrained={pretrained}")
    base = [word for word in arguments(parts, tmp_path / "results") if word != "backbone=demo"]
    one_sentence(command(*base, *settings), "backbone.pretrained", pretrained, "laion400m_e31")


@pytest.mark.parametrize("pretrained", ["null", "''"])
def test_weights_are_never_random_unless_that_is_said(parts: Path, tmp_path: Path, pretrained: str) -> None:
    outcome = command(*arguments(parts, tmp_path / "results", f"backbone.pretrained={pretrained}"))
    one_sentence(outcome, "backbone.pretrained", "untrained")


def test_weights_that_cannot_be_fetched(parts: Path, tmp_path: Path) -> None:
    base = [word for word in arguments(parts, tmp_path / "results") if not word.startswith("backbone")]
    with mock.patch.object(backbone, "download_pretrained", side_effect=OSError("no network today")):
        outcome = command(*base)
    one_sentence(outcome, "backbone.pretrained=laion400m_e31", "no network today", "path of a checkpoint")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_checkpoint_that_fits(parts: Path, tmp_path: Path, state: Weights, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    settings = ("dataset.categories=[bolt]", f"backbone.pretrained={path}")
    outcome = command(*arguments(parts, tmp_path / "results", *settings))
    assert outcome.code == 0, outcome.err
    assert "untrained" not in outcome.out
    (record,) = read_records(tmp_path / "results").values()
    assert record["provenance"]["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def half(state: Weights, path: Path) -> None:
    torch.save({name: value for name, value in state.items() if not name.startswith("visual.transformer")}, path)


def one_missing(state: Weights, path: Path) -> None:
    torch.save({name: value for name, value in state.items() if name != "visual.proj"}, path)


def one_too_many(state: Weights, path: Path) -> None:
    torch.save({**state, "visual.extra": torch.zeros(3)}, path)


def another_width(state: Weights, path: Path) -> None:
    torch.save({**state, "visual.proj": torch.zeros(64, 64)}, path)


def no_weights(_: Weights, path: Path) -> None:
    torch.save({"epoch": 31}, path)


def a_tensor(_: Weights, path: Path) -> None:
    torch.save(torch.zeros(3), path)


def cut_off(state: Weights, path: Path) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:100_000])


def text(_: Weights, path: Path) -> None:
    path.write_text("not a checkpoint")


def nothing(_: Weights, path: Path) -> None:
    path.write_bytes(b"")


def safetensors_cut_off(state: Weights, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize(
    "make",
    [half, one_missing, one_too_many, another_width, no_weights, a_tensor, cut_off, text, nothing, safetensors_cut_off],
)
def test_a_checkpoint_that_does_not_fit(
    parts: Path, tmp_path: Path, state: Weights, make: Callable[[Weights, Path], None]
) -> None:
    path = tmp_path / ("weights.safetensors" if make is safetensors_cut_off else "weights.pt")
    make(state, path)
    settings = ("dataset.categories=[bolt]", f"backbone.pretrained={path}")
    outcome = command(*arguments(parts, tmp_path / "results", *settings))
    one_sentence(outcome, "backbone.pretrained", path, "winclip-bench-demo")
    assert read_records(tmp_path / "results") == {}


class Malice:
    """Unpickled, it would write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("ending", "packing"),
    [*product(["pt"], ["pickle", "torch", "torch_legacy"]), *product(["bin", "npz", "safetensors"], ["pickle"])],
)
def test_a_checkpoint_does_not_run_code(parts: Path, tmp_path: Path, ending: str, packing: str) -> None:
    path, mark = tmp_path / f"weights.{ending}", tmp_path / "mark"
    if packing == "pickle":
        path.write_bytes(pickle.dumps(Malice(mark), protocol=2))
    else:
        torch.save({"state_dict": Malice(mark)}, path, _use_new_zipfile_serialization=packing == "torch")
    settings = ("dataset.categories=[bolt]", f"backbone.pretrained={path}")
    outcome = command(*arguments(parts, tmp_path / "results", *settings))
    assert not mark.exists()
    complaint = one_sentence(outcome, "backbone.pretrained", path)
    assert "weights_only" not in complaint, "the user must not be told to load it all the same"


def test_scores_that_are_not_finite(parts: Path, tmp_path: Path, state: Weights) -> None:
    path = tmp_path / "weights.pt"
    torch.save({**state, "visual.proj": torch.full_like(state["visual.proj"], torch.nan)}, path)
    settings = ("dataset.categories=[bolt]", f"backbone.pretrained={path}")
    outcome = command(*arguments(parts, tmp_path / "results", *settings))
    one_sentence(outcome, "not finite", "weights")
    assert read_records(tmp_path / "results") == {}


def test_a_score_that_is_not_finite_in_one_category(parts: Path, tmp_path: Path) -> None:
    encode = backbone.Backbone.encode_images
    calls = []

    def spoil(self: Any, pixels: torch.Tensor, scales: Any, full: bool = True) -> Any:
        features = encode(self, pixels, scales, full)
        if not calls:
            with torch.inference_mode():
                features.windows[2][0, 0] = torch.nan
        calls.append(len(pixels))
        return features

    assert command(*arguments(parts, tmp_path / "warm")).code == 0  # the self-check is done
    with mock.patch.object(backbone.Backbone, "encode_images", spoil):
        only_bolt_fails(parts, tmp_path / "results", "not finite", settings=(f"runtime.cache_dir={tmp_path / 'cold'}",))


def test_windows_larger_than_the_grid(parts: Path, tmp_path: Path) -> None:
    settings = ("scales=[2,16]", "dataset.categories=[bolt]")
    one_sentence(command(*arguments(parts, tmp_path / "results", *settings)), "scales", "16", "15×15")


def test_a_prompt_longer_than_the_context(copy: Path, tmp_path: Path) -> None:
    words = " ".join(["bolt"] * 40)
    settings = (f'dataset.class_names.bolt="{words}"',)
    only_bolt_fails(copy, tmp_path / "results", words, "32 tokens", settings=settings)


@pytest.mark.parametrize("setting", ['prompts.templates=["a [c] photo of [s]."]', 'prompts.normal_states=["[s] [c]"]'])
def test_no_mark_is_left_in_a_prompt(parts: Path, tmp_path: Path, setting: str) -> None:
    """A mark in the wrong place is refused or filled in, but not read out."""
    encode = backbone.Backbone.encode_prompts
    prompts: list[str] = []

    def note(self: Any, texts: Any) -> Any:
        prompts.extend(texts)
        return encode(self, texts)

    with mock.patch.object(backbone.Backbone, "encode_prompts", note):
        command(*arguments(parts, tmp_path / "results", "dataset.categories=[bolt]", setting))
    assert [prompt for prompt in prompts if "[c]" in prompt or "[s]" in prompt] == []


@pytest.mark.parametrize("k_shot", [0, 1])
def test_a_folder_whose_name_is_not_unicode(tmp_path: Path, k_shot: int) -> None:
    """Linux lets any bytes be a name; archives from elsewhere bring them."""
    folder = make_category(tmp_path / "parts/bolt", 1)
    try:
        folder.rename(folder.with_name("bolt\udcff"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only Unicode")
    outcome = command(*arguments(tmp_path / "parts", tmp_path / "results", f"k_shot={k_shot}"))
    assert "Traceback" not in outcome.err
    assert outcome.code == 0


@pytest.mark.parametrize("setting", ["backbone.pretrained={path}", "scales=[99]"])
def test_what_concerns_the_whole_run_is_said_once(parts: Path, tmp_path: Path, setting: str) -> None:
    """And not once for every category, after loading the weights again for each."""
    path = tmp_path / "weights.pt"
    path.write_text("not a checkpoint")
    one_sentence(command(*arguments(parts, tmp_path / "results", setting.format(path=path))))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(parts: Path, tmp_path: Path) -> None:
    one_sentence(command(*arguments(parts, tmp_path / "results", "runtime.device=cuda")), "runtime.device=cuda")
    assert command(*arguments(parts, tmp_path / "results", "runtime.device=auto")).code == 0


# Where results go


@pytest.mark.parametrize("below", [False, True])
def test_a_file_in_place_of_the_results_folder(parts: Path, tmp_path: Path, below: bool) -> None:
    (tmp_path / "results").write_text("a file")
    results = tmp_path / "results" / "inner" if below else tmp_path / "results"
    with counted_evaluations() as evaluated:
        outcome = command(*arguments(parts, results), f"runtime.cache_dir={tmp_path / 'cache'}")
    one_sentence(outcome, results, "results_dir")
    assert evaluated == []


def test_a_results_folder_that_cannot_be_written(parts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir(mode=0o500)
    try:
        (results / "probe").touch()
    except OSError:
        pass
    else:
        pytest.skip("permissions do not bind this user")
    with counted_evaluations() as evaluated:
        outcome = command(*arguments(parts, results))
    one_sentence(outcome, results, "results_dir")
    assert evaluated == []


def test_a_folder_in_place_of_a_record_costs_only_its_category(parts: Path, tmp_path: Path) -> None:
    assert command(*arguments(parts, tmp_path / "results")).code == 0
    (path,) = (tmp_path / "results/records").glob("*/*/bolt.json")
    path.unlink()
    path.mkdir()
    outcome = command(*arguments(parts, tmp_path / "results"))
    one_sentence(outcome, "bolt", path)


def test_a_cache_folder_that_is_a_file(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file")
    cache = f"runtime.cache_dir={tmp_path / 'blocked'}"
    outcome = command(cache, f"results_dir={tmp_path / 'results'}")
    one_sentence(outcome, tmp_path / "blocked", "runtime.cache_dir")
    # Where nothing has to be kept there, it is done without.
    base = arguments(parts, tmp_path / "results", "dataset.categories=[bolt]")
    assert command(*(cache if word.startswith("runtime.cache_dir=") else word for word in base)).code == 0


def test_a_dataset_name_that_is_no_file_name(parts: Path, tmp_path: Path) -> None:
    with counted_evaluations() as evaluated:
        outcome = command(*arguments(parts, tmp_path / "results", "dataset.name=../up", "force=true"))
    one_sentence(outcome, "../up")
    assert evaluated == []
    assert not (tmp_path / "up").exists()


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Escape sequences in the name of a folder are shown, not obeyed."""
    root = tmp_path / "parts"
    make_category(root / "bolt\x1b[31m", 1)
    paint(root / "bolt\x1b[31m" / "test/dent/009.png", 9, (64, 64))
    outcome = command(*arguments(root, tmp_path / "results"))
    assert outcome.code != 0
    assert "\x1b" not in outcome.out + outcome.err
    outcome = command(*arguments(root, tmp_path / "results", "dataset.categories=[screw]"))
    assert outcome.code != 0
    assert "\x1b" not in outcome.out + outcome.err
