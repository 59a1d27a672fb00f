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

Aggregation = Literal["harmonic", "arithmetic"]

# The smallest score that is divided by: a harmonic mean with a 0 in it is 0, not a division by zero.
EPSILON = 1e-30


def prototypes(
    normal: Tensor, anomalous: Tensor, how: Literal["mean_of_unit", "mean_of_raw", "unnormalised"]
) -> Tensor:
    """Unit text prototypes [2, E], normal first, from prompt embeddings [n, E] and [m, E]; [1, E] where m is 0.

    mean_of_unit normalises each embedding before the mean, mean_of_raw does not; unnormalised does and leaves out the
    normalisation of the mean, so that its prototypes are no unit vectors.
    """
    present = [side for side in (normal, anomalous) if len(side)]
    means = torch.stack([(side if how == "mean_of_raw" else F.normalize(side, dim=-1)).mean(0) for side in present])
    return means if how == "unnormalised" else F.normalize(means, dim=-1)


def text_scores(embeddings: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """P(anomalous) in 0–1 of unit embeddings [..., E]: the softmax over cosines / temperature (eq. 1).

    >>> axes = torch.eye(2)
    >>> text_scores(axes, axes, temperature=1.0)
    tensor([0.2689, 0.7311])

    With the normal prototype alone, the paper's one-class design, the distance to it, ½(1 − cos). Its scale is assumed;
    an image's rank, and so every image metric, does not depend on it.

    >>> text_scores(axes, axes[:1], temperature=1.0)
    tensor([0.0000, 0.5000])
    """
    if len(prototypes) == 1:
        return association_scores(embeddings @ prototypes[0])
    return (embeddings @ prototypes.T / temperature).softmax(-1)[..., 1]


def harmonic_aggregation(window_scores: Tensor, incidence: Tensor) -> Tensor:
    """A score per patch: the harmonic mean over the windows that cover it (eq. 4).

    window_scores [..., n] in 0–1, incidence [n, g²]; returns [..., g²].

    A row of three patches, two windows of two: the middle patch is covered by both.

    >>> harmonic_aggregation(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
    tensor([0.5000, 0.3333, 0.2500])
    """
    return incidence.sum(0) / ((1 / window_scores.clamp(min=EPSILON)) @ incidence)


def arithmetic_aggregation(window_scores: Tensor, incidence: Tensor) -> Tensor:
    """As `harmonic_aggregation` with the arithmetic mean, the paper's ablation.

    >>> arithmetic_aggregation(torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]))
    tensor([0.5000, 0.3750, 0.2500])
    """
    return window_scores @ incidence / incidence.sum(0)


AGGREGATIONS = {"harmonic": harmonic_aggregation, "arithmetic": arithmetic_aggregation}


def text_map(
    image_scores: Tensor,
    window_scores: Mapping[int, Tensor],
    incidences: Mapping[int, Tensor],
    aggregation: Aggregation = "harmonic",
    image_term: bool = True,
) -> Tensor:
    """The zero-shot map [B, g²]: the harmonic mean of every scale's map and the image score (eq. 5).

    image_scores [B]; window_scores side -> [B, n]; incidences side -> [n, g²]. The aggregation is over the windows and
    over the scales; without image_term the image score is no part of it, and there is at least one scale.
    """
    aggregate = AGGREGATIONS[aggregation]
    maps = [aggregate(scores, incidences[side]) for side, scores in window_scores.items()]
    if image_term:
        cells = next(iter(incidences.values())).shape[1] if incidences else 1
        maps.append(image_scores[:, None].expand(-1, cells))
    together = torch.stack(maps, -1)
    return aggregate(together, together.new_ones(len(maps), 1))[..., 0]


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


def association_map(
    patches: Tensor,
    windows: Mapping[int, Tensor],
    incidences: Mapping[int, Tensor],
    aggregation: Aggregation = "harmonic",
) -> Tensor:
    """The few-shot map [B, g²]: the mean over patch features and scales (eq. 7).

    patches [B, g²] and windows side -> [B, n] are association scores; the aggregation is over the windows.
    """
    aggregate = AGGREGATIONS[aggregation]
    maps = [patches, *(aggregate(scores, incidences[side]) for side, scores in windows.items())]
    return torch.stack(maps).mean(0)


@dataclass
class Similarity:
    """Maximal similarity to the references: of patches [B, g²] and of windows, side -> [B, n]."""

    patches: Tensor
    windows: dict[int, Tensor]


@dataclass
class Scores:
    """Of B images or tiles: text scores [B] unless the association stands alone, maps [B, g²] unless there are none,
    and with references the maxima of the association maps [B]."""

    text: Tensor | None
    maps: Tensor | None
    association_max: Tensor | None


def score(
    text: Tensor | None,
    window_text: Mapping[int, Tensor],
    incidences: Mapping[int, Tensor],
    *,
    grid: int,
    similarity: Similarity | None = None,
    combination: Literal["mean", "sum", "none"] = "mean",
    aggregation: Aggregation = "harmonic",
    image_term: bool = True,
) -> Scores:
    """WinCLIP without references, WinCLIP+ with the similarity to them.

    text [B] and window_text side -> [B, n] are text scores; grid is the number of patches per side; combination is of
    the text map with the association map, or none for image scores without any map. Without text, which needs
    references, the association stands alone.
    """
    assert text is not None or similarity is not None, "there is something to score by"
    maps = None
    if text is not None and combination != "none":
        maps = text_map(text, window_text, incidences, aggregation, image_term).expand(-1, grid * grid)
    if similarity is None:
        return Scores(text, maps, None)
    association = association_map(
        association_scores(similarity.patches),
        {side: association_scores(part) for side, part in similarity.windows.items()},
        incidences,
        aggregation,
    )
    if text is None and combination != "none":
        maps = association
    elif maps is not None:
        maps = (maps + association) / 2 if combination == "mean" else maps + association
    return Scores(text, maps, association.amax(-1))


def image_score(text: Tensor | None, association_max: Tensor | None) -> Tensor:
    """The score of one image from its tiles [T]: the mean over them of the text score, and with references of ½(text
    score + maximum of the association map) (eq. 8); of either alone where the other is None."""
    present = [part for part in (text, association_max) if part is not None]
    return torch.stack(present).mean()


def upsample(maps: Tensor, grid: int, side: int) -> Tensor:
    """Maps [B, g²] at pixel resolution [B, side, side]: bilinear, corners not aligned."""
    return F.interpolate(maps.unflatten(-1, (1, grid, grid)), size=(side, side), mode="bilinear", align_corners=False)[
        :, 0
    ]
