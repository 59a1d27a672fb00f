"""Stages, forms and maps of types on embeddings whose right answers are known by hand."""

import pytest
import torch
import torch.nn.functional as F

from winclip_bench.clip.windows import incidence
from winclip_bench.methods import defect_types, winclip

GOOD, CRACK, HOLE = torch.eye(3)  # three classes, at right angles


def unit(*values: float) -> torch.Tensor:
    return F.normalize(torch.tensor([values], dtype=torch.float32), dim=-1)[0]


def test_single_takes_the_best_of_all_and_two_asks_the_first_stage() -> None:
    images = torch.stack([unit(3, 2, 1), unit(3, 1, 2), unit(1, 3, 2), unit(1, 2, 3)])
    similarity = defect_types.similarities(images, torch.eye(3))
    assert defect_types.decide("single", similarity).tolist() == [0, 0, 1, 2]
    anomalous = torch.tensor([True, True, False, True])
    assert defect_types.decide("two", similarity, anomalous).tolist() == [1, 2, 0, 2]
    assert defect_types.decide("defects_only", similarity).tolist() == [1, 2, 1, 2]


def test_ties_go_to_the_first_class() -> None:
    similarity = torch.full((2, 4), 0.5)
    assert defect_types.decide("single", similarity).tolist() == [0, 0]
    assert defect_types.decide("defects_only", similarity).tolist() == [1, 1]


def test_two_stages_need_a_decision_and_a_defect() -> None:
    with pytest.raises(ValueError, match="first stage"):
        defect_types.decide("two", torch.zeros(1, 3))
    for stage in ("two", "defects_only"):
        with pytest.raises(ValueError, match="there is none"):
            defect_types.decide(stage, torch.zeros(1, 1), torch.ones(1, dtype=torch.bool))
    assert defect_types.decide("single", torch.zeros(1, 1)).tolist() == [0]


def test_the_original_prefers_the_class_whose_prompts_agree() -> None:
    """An image nearer to a class of scattered prompts is given to the class of uniform ones, whose mean is longer."""
    scattered = torch.stack([unit(1, 2, 0), unit(1, -2, 0)])  # mean along the first axis, length 0.447
    uniform = torch.stack([unit(0, 0, 1), unit(0, 0, 1)])
    image = unit(3, 0, 2)[None]  # cosines 0.83 and 0.55
    decided = {
        how: defect_types.decide(
            "single", defect_types.similarities(image, defect_types.prototypes([scattered, uniform], how))
        ).item()
        for how in ("mean_of_unit", "unnormalised")
    }
    assert decided == {"mean_of_unit": 0, "unnormalised": 1}


def test_the_forms_cut_the_compositional_difference_at_different_images() -> None:
    normal = torch.stack([unit(1, 1, 0), unit(1, -1, 0)])  # length 0.707 along the first axis
    anomalous = torch.stack([unit(0, 0, 1)])
    image = unit(5, 0, 4)[None]
    scores = {
        how: float(defect_types.compositional_difference(image, defect_types.prototypes([normal, anomalous], how)))
        for how in ("mean_of_unit", "unnormalised")
    }
    length = 41**0.5
    assert scores["mean_of_unit"] == pytest.approx((4 - 5) / length)
    assert scores["unnormalised"] == pytest.approx((4 - 5 * 0.5**0.5) / length)
    assert scores["mean_of_unit"] < 0 < scores["unnormalised"]


def test_long_prompt_embeddings_count_no_more_than_short_ones() -> None:
    prompts = torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    for how, length in (("mean_of_unit", 1.0), ("unnormalised", 0.5**0.5)):
        found = defect_types.prototypes([prompts], how)
        torch.testing.assert_close(found, length * torch.tensor([[0.5, 0.5]]).sqrt())


def test_the_right_difference_has_the_sign_of_the_text_score() -> None:
    generator = torch.Generator().manual_seed(0)
    images, sides = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (50, 2))
    difference = defect_types.compositional_difference(images, sides)
    assert torch.equal(difference > 0, winclip.text_scores(images, sides, 0.07) > 0.5)


def test_each_half_of_an_image_gets_its_own_type() -> None:
    """A grid of 4 × 4 with windows of 2: cracks on the left, holes on the right, nothing wrong in the top row."""
    grid = 4
    covers = incidence(grid, 2)
    windows = torch.stack([CRACK if place % 3 == 0 else HOLE if place % 3 == 2 else GOOD for place in range(9)])
    found = defect_types.patch_probabilities({2: windows[None]}, {2: covers}, torch.eye(3), temperature=0.1)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, grid * grid))
    anomalous = torch.ones(1, grid, grid, dtype=torch.bool)
    anomalous[:, 0] = False
    types = defect_types.type_map(found, anomalous.flatten(1)).reshape(grid, grid)
    assert types.tolist() == [[0, 0, 0, 0]] + 3 * [[1, 1, 2, 2]]


def test_patch_probabilities_are_the_mean_over_windows_and_sides() -> None:
    generator = torch.Generator().manual_seed(1)
    grid, sides = 3, (2, 3)
    classes = F.normalize(torch.randn(4, 5, generator=generator), dim=-1)
    windows = {
        side: F.normalize(torch.randn(2, (grid - side + 1) ** 2, 5, generator=generator), dim=-1) for side in sides
    }
    covers = {side: incidence(grid, side) for side in sides}
    found = defect_types.patch_probabilities(windows, covers, classes, 0.2)
    for image in range(2):
        for patch in range(grid * grid):
            of_sides = []
            for side in sides:
                covering = [place for place in range(len(covers[side])) if covers[side][place, patch]]
                of_sides.append(
                    torch.stack([(windows[side][image, n] @ classes.T / 0.2).softmax(0) for n in covering]).mean(0)
                )
            torch.testing.assert_close(found[image, patch], torch.stack(of_sides).mean(0))
