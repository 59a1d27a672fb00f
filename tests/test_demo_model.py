"""The shipped demo model on a part of the demo's test split: what docs/demo_model.md promises at least."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import open_clip
import pytest
from PIL import Image
from safetensors import safe_open

from scripts import train_demo_model as training
from scripts.evaluate_demo_model import (
    ASSOCIATION,
    FEW,
    ROWS,
    ZERO,
    Scored,
    resampled,
    score,
    settings,
    typing_accuracy,
)
from winclip_bench.clip import backbone
from winclip_bench.data import open_dataset
from winclip_bench.data.demo import CATEGORIES, HELD_OUT_CATEGORIES, HELD_OUT_DEFECTS, make_sample
from winclip_bench.data.demo.defects import DEFECTS

REPOSITORY = Path(__file__).parents[1]
WEIGHTS = Path(backbone.__file__).parent / "weights" / "winclip-bench-demo.safetensors"
SUBSET = ("brick", "button", "fabric", "tissue", "washer")
GOOD_IMAGES, DEFECT_IMAGES, REFERENCES = 6, 2, 4


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first few images of the test split of some categories, in MVTec layout."""
    root = tmp_path_factory.mktemp("demo")
    for category in SUBSET:
        for index in range(REFERENCES):
            save(root / category / "train/good" / f"{index}.png", make_sample(category, "good", "train", index)[0])
        for index in range(GOOD_IMAGES):
            save(root / category / "test/good" / f"{index}.png", make_sample(category, "good", "test", index)[0])
        for defect in CATEGORIES[category]:
            for index in range(DEFECT_IMAGES):
                image, mask = make_sample(category, defect, "test", index)
                save(root / category / "test" / defect / f"{index}.png", image)
                save(root / category / "ground_truth" / defect / f"{index}_mask.png", mask.astype(np.uint8) * 255)
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.fixture(scope="module")
def scored(subset: Path) -> dict[str, Scored]:
    """The subset as the shipped weights score it."""
    return score(str(WEIGHTS), subset, open_dataset("mvtec", subset, "demo").categories)


def auroc(scored: Mapping[str, Scored], row: str, setting: str, kind: str) -> float:
    value = resampled(scored, setting, ROWS[row], resamples=1)[kind].values[
        "auroc_px" if kind == "pixel" else "auroc_sp"
    ]
    assert value is not None
    return value


def test_zero_shot_finds_the_defects_it_has_seen(scored: dict[str, Scored]) -> None:
    assert auroc(scored, "seen types", ZERO, "image") > 0.80
    assert auroc(scored, "seen types", ZERO, "pixel") > 0.85


def test_zero_shot_finds_defects_it_has_never_seen(scored: dict[str, Scored]) -> None:
    assert auroc(scored, "held-out types", ZERO, "image") > 0.60
    assert auroc(scored, "held-out types", ZERO, "pixel") > 0.60


def test_references_do_not_hurt_categories_it_has_never_seen(scored: dict[str, Scored]) -> None:
    few, zero = (auroc(scored, "held-out categories", setting, "pixel") for setting in (FEW, ZERO))
    assert few >= zero


def test_the_association_map_is_better_than_without_training(subset: Path, scored: dict[str, Scored]) -> None:
    untrained = score("untrained", subset, open_dataset("mvtec", subset, "demo").categories)
    assert (
        auroc(scored, "everything", ASSOCIATION, "pixel") > auroc(untrained, "everything", ASSOCIATION, "pixel") + 0.05
    )


def test_defect_types_are_named_twice_as_well_as_by_chance(subset: Path) -> None:
    model = backbone.load_backbone(backbone.find_weights("winclip-bench-demo", str(WEIGHTS)))
    categories = open_dataset("mvtec", subset, "demo").categories
    kinds = [kind for kind in DEFECTS if kind not in HELD_OUT_DEFECTS]
    accuracy, _, _ = typing_accuracy(model, categories, kinds, settings("backbone=demo"))
    assert accuracy > 2 / (1 + len(kinds))


def test_the_card_describes_the_shipped_weights() -> None:
    card = (REPOSITORY / "docs" / "demo_model.md").read_text()
    digest = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert re.findall(r"sha256.*?`([0-9a-f]{64})`", card)[0] == digest


def test_words_of_held_out_categories_and_defects_were_never_trained() -> None:
    tokenizer = open_clip.get_tokenizer("winclip-bench-demo")
    with safe_open(WEIGHTS, "pt") as weights:
        rows = weights.get_tensor("token_embedding.weight")
    for word in ("crack", "smear", "washer", "wood"):
        assert not rows[tokenizer.encode(word)].any()
    for word in ("scratch", "brick", "flawless"):
        assert rows[tokenizer.encode(word)].any()


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = training.make_samples(training.jobs_of(1, 1), tmp_path, workers=0)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()

    training.train(0, 3, tmp_path / "whole", samples, workers=0)

    with monkeypatch.context() as patch:
        patch.setattr(training, "temperature", stopping_at(2, training.temperature))
        with pytest.raises(KeyboardInterrupt):
            training.train(0, 3, tmp_path / "interrupted", samples, workers=0)
    training.train(0, 3, tmp_path / "interrupted", samples, workers=0)

    for file in ("weights.safetensors", "log.csv"):
        assert (tmp_path / "interrupted" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def stopping_at(step: int, temperature: Callable[[int, int], float]) -> Callable[[int, int], float]:
    def stop(now: int, steps: int) -> float:
        if now == step:
            raise KeyboardInterrupt
        return temperature(now, steps)

    return stop


def test_training_never_sees_what_is_held_out() -> None:
    jobs = training.jobs_of(1, 1)
    assert {category for category, _, _ in jobs} == set(CATEGORIES) - set(HELD_OUT_CATEGORIES)
    assert {defect for _, defect, _ in jobs} == {"good", *DEFECTS} - set(HELD_OUT_DEFECTS)
