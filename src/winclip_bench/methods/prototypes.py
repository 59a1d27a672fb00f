"""Anomaly scores from image embeddings alone: nearness to classes of normal images against a bank of pseudo-anomalies.

The method is the "zero-shot" baseline of AISystem-2402 (github.com/PiLab-CAU/AISystem-2402), which sees no text and
does see normal images. What it publishes as "anomaly score" is high for normal images, and anomalous is what lies below
0.2; here score and threshold have the other sign, so that higher is more anomalous. The decisions are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = -0.2  # anomalous is what scores more
IMAGES_PER_CLASS = 5  # normal images that a class's prototype is made from
PSEUDO_ANOMALIES_PER_CLASS = 3  # of its first images, one each


@dataclass(frozen=True)
class Similarities:
    """Cosines of n images: with the nearest class prototype [n], and on average with the bank [n]."""

    normal: Tensor
    anomalous: Tensor

    @property
    def score(self) -> Tensor:
        """Anomaly score [n], −2 to 2: similarity to the bank minus similarity to the nearest class."""
        return self.anomalous - self.normal

    @property
    def normality(self) -> Tensor:
        """What the original publishes as its anomaly score [n]: the same, with the other sign."""
        return self.normal - self.anomalous


def class_prototypes(classes: Sequence[Tensor]) -> Tensor:
    """Unit prototypes [C, E]: per class, the normalised mean of its normalised embeddings [n, E].

    >>> class_prototypes([torch.tensor([[2.0, 0.0]]), torch.eye(2)])
    tensor([[1.0000, 0.0000],
            [0.7071, 0.7071]])
    """
    return F.normalize(torch.stack([F.normalize(images, dim=-1).mean(0) for images in classes]), dim=-1)


def compare(embeddings: Tensor, prototypes: Tensor, bank: Tensor) -> Similarities:
    """Similarities of images [n, E] to unit class prototypes [C, E] and to the bank's embeddings [m, E].

    >>> found = compare(torch.eye(2), torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> found.score, found.score > THRESHOLD
    (tensor([-1.,  1.]), tensor([False,  True]))
    """
    unit = F.normalize(embeddings, dim=-1)
    return Similarities((unit @ prototypes.T).amax(-1), (unit @ F.normalize(bank, dim=-1).T).mean(-1))
