"""WinCLIP and WinCLIP+ on features: pure tensors in, scores and maps out.

Jeong et al., "WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation", CVPR 2023. Everything is at the
resolution of the patch grid, g × g flattened to g².
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

# The smallest score that is divided by: a harmonic mean with a 0 in it is 0, not a division by zero.
EPSILON = 1e-30


def prototypes(normal: Tensor, anomalous: Tensor, how: Literal["mean_of_unit", "mean_of_raw"]) -> Tensor:
    """Unit text prototypes [2, E], normal first, from prompt embeddings [n, E] and [m, E].

    mean_of_unit normalises each embedding before the mean, mean_of_raw does not.
    """
    sides = [F.normalize(side, dim=-1) if how == "mean_of_unit" else side for side in (normal, anomalous)]
    return F.normalize(torch.stack([side.mean(0) for side in sides]), dim=-1)


def text_scores(embeddings: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """P(anomalous) in 0–1 of unit embeddings [..., E]: the softmax over cosines / temperature (eq. 1).

    >>> axes = torch.eye(2)
    >>> text_scores(axes, axes, temperature=1.0)
    tensor([0.2689, 0.7311])
    """
    return (embeddings @ prototypes.T / temperature).softmax(-1)[..., 1]


def harmonic_aggregation(window_scores: Tensor, incidence: Tensor) -> Tensor:
    """A score per patch: the harmonic mean over the windows that cover it (eq. 4).

    window_scores [..., n] in 0–1, incidence [n, g²]; returns [..., g²].

    A row of three patches, two windows of two: the middle patch is covered by both.

    >>> harmonic_aggregation(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
    tensor([0.5000, 0.3333, 0.2500])
    """
    return incidence.sum(0) / ((1 / window_scores.clamp(min=EPSILON)) @ incidence)


def text_map(image_scores: Tensor, window_scores: Mapping[int, Tensor], incidences: Mapping[int, Tensor]) -> Tensor:
    """The zero-shot map [B, g²]: the harmonic mean of every scale's map and the image score (eq. 5).

    image_scores [B]; window_scores side -> [B, n]; incidences side -> [n, g²].
    """
    maps = [harmonic_aggregation(scores, incidences[side]) for side, scores in window_scores.items()]
    cells = next(iter(incidences.values())).shape[1] if incidences else 1
    maps.append(image_scores[:, None].expand(-1, cells))
    return len(maps) / torch.stack([1 / part.clamp(min=EPSILON) for part in maps]).sum(0)


def max_similarity(features: Tensor, reference: Tensor) -> Tensor:
    """Cosine in −1–1 of each feature with the most similar one of a reference image: [B, n, D], [m, D] -> [B, n].

    Both are unit features. The nearest of several references is the maximum over them, so that this is computed once
    per reference.
    """
    return (features @ reference.T).amax(-1)


def association_scores(similarity: Tensor) -> Tensor:
    """Distance in 0–1 to the nearest reference, ½(1 − cos) (eq. 6), from maximal similarities of any shape.

    >>> association_scores(torch.tensor([1.0, 0.0, -1.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    return ((1 - similarity) / 2).clamp(min=0)


def association_map(patches: Tensor, windows: Mapping[int, Tensor], incidences: Mapping[int, Tensor]) -> Tensor:
    """The few-shot map [B, g²]: the mean over patch features and scales (eq. 7).

    patches [B, g²] and windows side -> [B, n] are association scores.
    """
    maps = [patches, *(harmonic_aggregation(scores, incidences[side]) for side, scores in windows.items())]
    return torch.stack(maps).mean(0)


@dataclass
class Similarity:
    """Maximal similarity to the references: of patches [B, g²] and of windows, side -> [B, n]."""

    patches: Tensor
    windows: dict[int, Tensor]


@dataclass
class Scores:
    """Of B images or tiles: text scores [B], maps [B, g²], and with references the maxima of the association maps
    [B]."""

    text: Tensor
    maps: Tensor
    association_max: Tensor | None


def score(
    text: Tensor,
    window_text: Mapping[int, Tensor],
    incidences: Mapping[int, Tensor],
    *,
    grid: int,
    similarity: Similarity | None = None,
    combination: Literal["mean", "sum"] = "mean",
) -> Scores:
    """WinCLIP without references, WinCLIP+ with the similarity to them.

    text [B] and window_text side -> [B, n] are text scores; grid is the number of patches per side.
    """
    maps = text_map(text, window_text, incidences).expand(-1, grid * grid)
    if similarity is None:
        return Scores(text, maps, None)
    association = association_map(
        association_scores(similarity.patches),
        {side: association_scores(part) for side, part in similarity.windows.items()},
        incidences,
    )
    together = maps + association
    return Scores(text, together / 2 if combination == "mean" else together, association.amax(-1))


def image_score(text: Tensor, association_max: Tensor | None) -> Tensor:
    """The score of one image from its tiles [T]: the mean text score, and with references ½(that + the largest
    association score of any tile) (eq. 8)."""
    if association_max is None:
        return text.mean()
    return (text.mean() + association_max.max()) / 2


def upsample(maps: Tensor, grid: int, side: int) -> Tensor:
    """Maps [B, g²] at pixel resolution [B, side, side]: bilinear, corners not aligned."""
    return F.interpolate(maps.unflatten(-1, (1, grid, grid)), size=(side, side), mode="bilinear", align_corners=False)[
        :, 0
    ]
