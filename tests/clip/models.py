"""Small CLIP models of every family of towers, with weights that are far from the symmetric initial ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone


@register_model
def vit_test_without_class_token(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """A tower as SigLIP has it, which timm offers in large sizes only."""
    shape = {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": 80, "class_token": False, "global_pool": "map"}
    return VisionTransformer(**shape, num_classes=settings["num_classes"])


TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
_NATIVE = {"image_size": 80, "patch_size": 16, "width": 64, "head_width": 16, "layers": 2}
_TIMM = {"image_size": 224, "timm_pool": "token", "timm_proj": None, "timm_model_pretrained": False}

# The first five have what the backbones that people use have; each of the others has one thing that is different.
CONFIGS: dict[str, dict[str, Any]] = {
    "test-native": {"vision_cfg": _NATIVE},
    "test-quickgelu": {"vision_cfg": _NATIVE, "quick_gelu": True},
    "test-eva02": {"vision_cfg": {**_TIMM, "timm_model_name": "eva02_tiny_patch14_224"}, "custom_text": True},
    "test-timm": {"vision_cfg": {**_TIMM, "timm_model_name": "vit_tiny_patch16_224"}, "custom_text": True},
    "test-pe": {
        "vision_cfg": {
            **_TIMM,
            "image_size": 384,
            "timm_pool": "map",
            "timm_model_name": "vit_pe_core_tiny_patch16_384",
        },
        "custom_text": True,
    },
    "test-no-class-token": {
        "vision_cfg": {
            **_TIMM,
            "image_size": 80,
            "timm_pool": "map",
            "timm_model_name": "vit_test_without_class_token",
        },
        "custom_text": True,
    },
    "test-average": {"vision_cfg": {**_NATIVE, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}},
    "test-attention-pool": {"vision_cfg": {**_NATIVE, "attentional_pool": True, "attn_pooler_heads": 4}},
    "test-layer-scale": {"vision_cfg": {**_NATIVE, "ls_init_value": 0.1}},
    "test-qk-norm": {"vision_cfg": {**_NATIVE, "qk_norm": True, "scale_attn_inner": True, "scale_fc": True}},
}


@pytest.fixture(scope="session")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names under which open_clip knows the small models."""
    folder = tmp_path_factory.mktemp("architectures")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 48, "text_cfg": TEXT, **config}))
    open_clip.add_model_config(folder)
    return list(CONFIGS)


@pytest.fixture(scope="session")
def backbone_of(architectures: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """Loads a small model, with its weights from a checkpoint, once."""
    loaded: dict[str, Backbone] = {}

    def load(name: str) -> Backbone:
        if name not in loaded:
            path = tmp_path_factory.mktemp("checkpoint") / f"{name}.pt"
            save_checkpoint(name, path)
            loaded[name] = load_backbone(find_weights(name, str(path)))
        return loaded[name]

    return load


def save_checkpoint(architecture: str, path: Path, seed: int = 0) -> None:
    """Random weights whose vectors (norms, biases, scales) are random too, so that leaving one out is noticed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = open_clip.create_model(architecture, pretrained=None).state_dict()
        for name, value in state.items():
            if value.is_floating_point() and value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
            elif name.startswith("visual.trunk."):
                value.mul_(4)  # timm begins near zero, where every image looks the same
    torch.save(state, path)
