"""The method against the literal reference on features and maps, and its equations by hand."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from tests.clip import literal
from winclip_bench.clip.backbone import Backbone
from winclip_bench.clip.windows import incidence
from winclip_bench.methods import winclip

Load = Callable[[str], Backbone]


@pytest.mark.parametrize("k", [0, 4])
@pytest.mark.parametrize("architecture", ["test-native", "test-quickgelu", "test-average", "test-layer-scale"])
def test_scores_and_maps_agree_with_the_literal_reference(backbone_of: Load, architecture: str, k: int) -> None:
    """From pixels to maps: packed encoder and products against single windows and loops."""
    backbone = backbone_of(architecture)
    scales, temperature = [2, 3], 0.05
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2 + k, 3, backbone.image_size, backbone.image_size, generator=generator)
    embeddings = backbone.encode_prompts(["a photo of a bottle.", "a bottle.", "a photo of a broken bottle."])
    prototypes = winclip.prototypes(embeddings[:2], embeddings[2:], "mean_of_unit")

    features = backbone.encode_images(pixels, scales)
    similarity = None
    if k:
        similarity = winclip.Similarity(
            _nearest(features.patches, k),
            {side: _nearest(features.windows[side], k) for side in scales},
        )
    scores = winclip.score(
        winclip.text_scores(features.image[:2], prototypes, temperature),
        {side: winclip.text_scores(features.windows[side][:2], prototypes, temperature) for side in scales},
        {side: incidence(backbone.grid, side) for side in scales},
        grid=backbone.grid,
        similarity=similarity,
    )

    slow = [literal.features(backbone.model.visual, image, backbone.grid, scales) for image in pixels]
    for index in range(2):
        expected_score, expected_map = literal.winclip(slow[index], slow[2:], prototypes, backbone.grid, temperature)
        largest = None if scores.association_max is None else scores.association_max[index : index + 1]
        actual = float(winclip.image_score(scores.text[index : index + 1], largest))
        assert actual == pytest.approx(expected_score, abs=1e-5)
        torch.testing.assert_close(scores.maps[index].reshape(expected_map.shape), expected_map, atol=1e-5, rtol=0)


def _nearest(features: torch.Tensor, k: int) -> torch.Tensor:
    """Of the first two images to the last k, one reference at a time."""
    features = F.normalize(features, dim=-1)
    return torch.stack([winclip.max_similarity(features[:2], reference) for reference in features[-k:]]).amax(0)


def test_prototypes_differ_in_whether_long_embeddings_count_more() -> None:
    normal = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    anomalous = torch.tensor([[0.0, 1.0]])
    unit = winclip.prototypes(normal, anomalous, "mean_of_unit")
    raw = winclip.prototypes(normal, anomalous, "mean_of_raw")
    torch.testing.assert_close(unit[0], torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(raw[0], torch.tensor([0.1, 0.9]).sqrt())
    assert torch.equal(unit[1], raw[1])


def test_a_perfect_match_gives_zero_not_infinity() -> None:
    features = F.normalize(torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    scores = winclip.association_scores(winclip.max_similarity(features, features[0]))
    assert 0 <= scores.min() <= scores.max() < 1e-6
    spread = winclip.harmonic_aggregation(torch.zeros(1, 4), incidence(3, 2))
    assert torch.isfinite(spread).all()
    assert spread.max() < 1e-20


def test_image_only_map_is_the_image_score() -> None:
    text = torch.tensor([0.2, 0.9])
    scores = winclip.score(text, {}, {}, grid=3)
    torch.testing.assert_close(scores.maps, text[:, None].expand(-1, 9))


def test_sum_is_twice_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    text, windows = torch.rand(1, generator=generator), {2: torch.rand(1, 4, generator=generator)}
    similarity = winclip.Similarity(torch.rand(1, 9, generator=generator), {2: torch.rand(1, 4, generator=generator)})
    mean, total = (
        winclip.score(text, windows, {2: incidence(3, 2)}, grid=3, similarity=similarity, combination=combination).maps
        for combination in ("mean", "sum")
    )
    torch.testing.assert_close(2 * mean, total)


def test_tiles_of_one_image_share_a_score() -> None:
    text, largest = torch.tensor([0.2, 0.4]), torch.tensor([0.1, 0.5])
    assert float(winclip.image_score(text, None)) == pytest.approx(0.3)
    assert float(winclip.image_score(text, largest)) == pytest.approx((0.15 + 0.45) / 2)


def test_without_the_image_term_the_map_is_the_windows_alone() -> None:
    text, windows = torch.tensor([0.5]), {2: torch.tensor([[0.2, 0.3, 0.4, 0.6]])}
    both, alone = (
        winclip.score(text, windows, {2: incidence(3, 2)}, grid=3, image_term=image_term).maps[0]
        for image_term in (True, False)
    )
    # The upper left patch is in one window only, the one in the middle in all four.
    assert float(alone[0]) == pytest.approx(0.2)
    assert float(alone[4]) == pytest.approx(4 / (1 / 0.2 + 1 / 0.3 + 1 / 0.4 + 1 / 0.6))
    assert float(both[0]) == pytest.approx(2 / (1 / 0.2 + 1 / 0.5))


def test_arithmetic_aggregation_is_over_windows_and_scales() -> None:
    text = torch.tensor([0.5])
    windows = {2: torch.tensor([[0.2, 0.3, 0.4, 0.6]]), 3: torch.tensor([[0.8]])}
    incidences = {side: incidence(3, side) for side in windows}
    maps = winclip.score(text, windows, incidences, grid=3, aggregation="arithmetic").maps[0]
    assert float(maps[0]) == pytest.approx((0.2 + 0.8 + 0.5) / 3)
    assert float(maps[1]) == pytest.approx(((0.2 + 0.3) / 2 + 0.8 + 0.5) / 3)
    assert float(maps[4]) == pytest.approx(((0.2 + 0.3 + 0.4 + 0.6) / 4 + 0.8 + 0.5) / 3)


def test_arithmetic_aggregation_of_association_scores() -> None:
    cosines = winclip.Similarity(torch.ones(1, 9), {2: torch.tensor([[0.6, 0.2, 1.0, 1.0]])})  # distances 0.2, 0.4
    scores = winclip.score(None, {}, {2: incidence(3, 2)}, grid=3, similarity=cosines, aggregation="arithmetic")
    assert float(scores.maps[0, 1]) == pytest.approx((0 + (0.2 + 0.4) / 2) / 2)


@pytest.mark.parametrize("combination", ["mean", "sum"])
def test_association_alone_has_no_part_of_the_text(combination: Literal["mean", "sum"]) -> None:
    cosines = winclip.Similarity(torch.full((2, 9), 0.4), {2: torch.full((2, 4), 0.8)})
    scores = winclip.score(None, {}, {2: incidence(3, 2)}, grid=3, similarity=cosines, combination=combination)
    assert scores.text is None
    torch.testing.assert_close(scores.maps, torch.full((2, 9), (0.3 + 0.1) / 2))
    assert float(winclip.image_score(None, scores.association_max)) == pytest.approx(0.2)


@pytest.mark.parametrize("how", ["mean_of_unit", "mean_of_raw"])
def test_without_anomalous_prompts_a_score_is_the_distance_to_the_normal_ones(
    how: Literal["mean_of_unit", "mean_of_raw"],
) -> None:
    prototypes = winclip.prototypes(torch.tensor([[0.0, 2.0], [0.0, 1.0]]), torch.empty(0, 2), how)
    assert prototypes.tolist() == [[0, 1]]
    embeddings = torch.tensor([[0.0, 1.0], [0.8, 0.6], [1.0, 0.0], [0.0, -1.0]])
    scores = winclip.text_scores(embeddings, prototypes, temperature=0.01)
    torch.testing.assert_close(scores, torch.tensor([0.0, 0.2, 0.5, 1.0]))
