"""The packed encoder against the literal one, and against what cannot matter."""

import json
from collections.abc import Callable

import open_clip
import pytest
import torch
import torch.nn.functional as F

from tests.clip import literal
from tests.clip.models import CONFIGS, TEXT, save_checkpoint
from winclip_bench.clip.backbone import Backbone, find_weights, load_backbone

Load = Callable[[str], Backbone]


def _pixels(backbone: Backbone, count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, backbone.image_size, backbone.image_size, generator=generator)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_agrees_with_one_window_at_a_time(backbone_of: Load, architecture: str) -> None:
    """All windows of the small grids; of the large ones, whose towers come from timm as they are, some."""
    backbone = backbone_of(architecture)
    scales = [2, 3]
    pixels = _pixels(backbone, 2)
    packed = backbone.encode_images(pixels, scales)
    visual = backbone.model.visual
    image, patches = literal.embed_tokens(visual, pixels[1], None)

    torch.testing.assert_close(packed.image[1], F.normalize(image, dim=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(packed.patches[1], patches, atol=1e-4, rtol=1e-5)
    for side in scales:
        windows = list(literal.windows(backbone.grid, side))
        for index in range(0, len(windows), 1 if backbone.grid < 12 else 61):
            expected = F.normalize(literal.embed_tokens(visual, pixels[1], windows[index])[0], dim=0)
            torch.testing.assert_close(packed.windows[side][1, index], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["test-native", "test-eva02", "test-average"])
def test_batch_and_other_scales_do_not_matter(backbone_of: Load, architecture: str) -> None:
    backbone = backbone_of(architecture)
    pixels = _pixels(backbone, 3)
    together = backbone.encode_images(pixels, [2, 3])
    alone = backbone.encode_images(pixels[2:], [3])
    torch.testing.assert_close(together.windows[3][2:], alone.windows[3], atol=1e-6, rtol=0)
    torch.testing.assert_close(together.image[2:], alone.image, atol=1e-6, rtol=0)
    torch.testing.assert_close(together.patches[2:], alone.patches, atol=1e-5, rtol=1e-5)


def test_a_window_of_the_whole_grid_is_the_image(backbone_of: Load) -> None:
    backbone = backbone_of("test-native")
    features = backbone.encode_images(_pixels(backbone, 2), [backbone.grid])
    torch.testing.assert_close(features.windows[backbone.grid][:, 0], features.image, atol=1e-6, rtol=0)


def test_no_scales_at_all(backbone_of: Load) -> None:
    backbone = backbone_of("test-native")
    pixels = _pixels(backbone, 1)
    features = backbone.encode_images(pixels, [])
    assert features.windows == {}
    torch.testing.assert_close(features.image, backbone.encode_images(pixels, [2]).image, atol=1e-6, rtol=0)


def test_one_block_only(architectures: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """First and last block are the same one."""
    folder = tmp_path_factory.mktemp("shallow")
    config = {"embed_dim": 48, "text_cfg": TEXT}
    vision = {**CONFIGS["test-native"]["vision_cfg"], "layers": 1}
    (folder / "test-shallow.json").write_text(json.dumps({**config, "vision_cfg": vision}))
    open_clip.add_model_config(folder)
    save_checkpoint("test-shallow", folder / "weights.pt")
    backbone = load_backbone(find_weights("test-shallow", str(folder / "weights.pt")))
    pixels = _pixels(backbone, 1)
    _, windows, _ = literal.features(backbone.model.visual, pixels[0], backbone.grid, [2])
    torch.testing.assert_close(backbone.encode_images(pixels, [2]).windows[2][0], windows[2], atol=1e-5, rtol=0)
