"""Weights are known or refused, prompts fit or are refused, and a model that computes something else is refused."""

import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from tests.clip.models import save_checkpoint
from winclip_bench.clip import backbone as module
from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone, self_check
from winclip_bench.clip.encoder import Features
from winclip_bench.clip.towers import take_apart
from winclip_bench.data import file_sha256
from winclip_bench.errors import InputError

Load = Callable[[str], Backbone]


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_checkpoint_is_identified_by_its_bytes(architectures: list[str], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    save_checkpoint("test-native", tmp_path / "weights.pt")
    if ending == "safetensors":
        save_file(torch.load(tmp_path / "weights.pt"), path)
    weights = find_weights("test-native", str(path))
    assert weights.sha256 == file_sha256(path)
    assert load_backbone(weights).grid == 5


def test_untrained_weights_are_an_explicit_reproducible_choice(architectures: list[str]) -> None:
    for nothing in (None, ""):
        with pytest.raises(InputError, match="would give random weights"):
            find_weights("test-native", nothing)
    first, again, other = (find_weights("test-native", "untrained", seed) for seed in (0, 0, 1))
    assert first == again
    assert first.sha256 != other.sha256
    values = load_backbone(first).model.visual.proj
    assert torch.equal(values, load_backbone(again).model.visual.proj)
    assert not torch.equal(values, load_backbone(other).model.visual.proj)


def test_drawing_untrained_weights_leaves_the_callers_random_state_alone(architectures: list[str]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    find_weights("test-native", "untrained")
    assert torch.equal(torch.rand(3), expected)


def test_unknown_names_are_answered_with_near_ones(architectures: list[str]) -> None:
    with pytest.raises(InputError, match=r"ViT-B-16-plus-24 is unknown.*ViT-B-16-plus-240"):
        find_weights("ViT-B-16-plus-24", "laion400m_e31")
    with pytest.raises(InputError, match=r"neither a file nor a tag of ViT-B-16-plus-240; its tags are laion400m_e31"):
        find_weights("ViT-B-16-plus-240", "laion400m_e3")
    with pytest.raises(InputError, match="its tags are none"):
        find_weights("test-native", "no/such/file.pt")


def test_a_checkpoint_of_something_else_is_refused(architectures: list[str], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_checkpoint("test-layer-scale", path)
    with pytest.raises(InputError, match=r"weights\.pt does not fit test-native"):
        load_backbone(find_weights("test-native", str(path)))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"weights\.pt does not fit test-native"):
        load_backbone(find_weights("test-native", str(path)))


class _Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


def test_a_malicious_pickle_is_refused_unexecuted(
    architectures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_Malice(), "weights.pt")
    Path("plain.pt").write_bytes(pickle.dumps(_Malice()))
    for name in ("weights.pt", "plain.pt"):
        with pytest.raises(InputError, match="does not fit"):
            load_backbone(find_weights("test-native", name))
    assert not Path("executed").exists()


def test_the_wrong_activation_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenAI's weights in a model with the ordinary GELU load without an error and score wrongly."""
    monkeypatch.setattr(module, "download_pretrained", lambda tag: tmp_path / "weights.pt")
    monkeypatch.setattr(
        open_clip.factory, "download_pretrained", lambda tag, cache_dir=None: str(tmp_path / "weights.pt")
    )
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"use backbone\.architecture=ViT-B-32-quickgelu"):
        load_backbone(find_weights("ViT-B-32", "openai"))


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(tag: object) -> str:
        raise OSError("Name or service not known")

    monkeypatch.setattr(module, "download_pretrained", no_network)
    with pytest.raises(InputError, match=r"could not be downloaded \(Name or service not known\); check the network"):
        find_weights("ViT-B-16-plus-240", "laion400m_e31")


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("RN50", "ModifiedResNet"),
        ("convnext_tiny", "ConvNeXt"),
        ("vit_relpos_medium_patch16_cls_224", "VisionTransformerRelPos"),
        ("MobileCLIP-S1", "FastVit"),
    ],
)
def test_towers_without_droppable_tokens_are_refused(architecture: str, reason: str) -> None:
    config = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"])
    with pytest.raises(InputError, match=f"{architecture}.*{reason}"):
        take_apart(visual, architecture)


def test_register_tokens_are_refused() -> None:
    settings = {"timm_model_name": "vit_wee_patch16_reg1_gap_256", "timm_pool": "avg", "timm_proj": "linear"}
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(48, {**settings, "image_size": 256})
    with pytest.raises(InputError, match="wee has 1 register tokens"):
        take_apart(visual, "wee")


def test_a_tokenizer_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"tokenizer timm/ViT-B-16-SigLIP2-256, which could not be had .* install"):
        module._tokenizer("ViT-B-16-SigLIP2-256")


def test_prompts_longer_than_the_context_are_refused(backbone_of: Load) -> None:
    backbone = backbone_of("test-native")
    fits = " ".join(["crack"] * 30)  # and start and end make the context of 32
    assert backbone.encode_prompts([fits]).shape == (1, 48)
    with pytest.raises(InputError, match="longer than the 32 tokens of test-native"):
        backbone.encode_prompts(["short", fits + " crack"])


def test_scales_must_fit_the_grid(backbone_of: Load) -> None:
    backbone = backbone_of("test-native")
    backbone.check_scales([1, 5])
    with pytest.raises(InputError, match="6×6 patches, but test-native has a grid of 5×5"):
        backbone.check_scales([2, 6])


class _Faulty(Backbone):
    """Window embeddings with one of the faults that raise nothing by themselves."""

    fault = ""

    def encode_images(self, pixels: torch.Tensor, scales: list[int]) -> Features:  # type: ignore[override]
        features = super().encode_images(pixels, scales)
        windows = features.windows[scales[0]]
        if self.fault == "mixed":  # windows of the other images take part
            windows = F.normalize(windows + windows.mean(0, keepdim=True), dim=-1)
        elif self.fault == "constant":  # what exchanged batch and length give
            windows = windows[:1, :1].expand_as(windows)
        elif self.fault == "image":
            return replace(features, image=F.normalize(features.image + 0.01, dim=-1))
        return replace(features, windows={scales[0]: windows})


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("mixed", "depends on what else is in the batch"),
        ("constant", "do not depend on the image"),
        ("image", "differs from the model's own"),
    ],
)
def test_the_self_check_notices(backbone_of: Load, fault: str, reason: str) -> None:
    sound = backbone_of("test-native")
    self_check(sound)
    faulty = _Faulty(**vars(sound))
    faulty.fault = fault
    with pytest.raises(InputError, match=reason):
        self_check(faulty)
