"""Which type of defect an image shows, from CLIP embeddings: pure tensors in, types out.

The method is that of CLIP-CPE (github.com/PrudhviGudla/CLIP-CPE-Zero-Shot-Defect-Classification): a prototype per class
from a compositional prompt ensemble, in one stage or two. Types are numbers: 0 is good, d is the d-th defect.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Stage = Literal["single", "two", "defects_only"]
GOOD = 0


def prototypes(classes: Sequence[Tensor], how: Literal["mean_of_unit", "unnormalised"]) -> Tensor:
    """One prototype per class [C, E], in order, from its prompt embeddings [n, E].

    mean_of_unit normalises each embedding, averages, and normalises again. unnormalised leaves out the last step, as
    CLIP-CPE does: a class whose prompts agree then has a longer prototype, and wins against one that is just as near.

    >>> spread, narrow = torch.eye(2), torch.tensor([[1.0, 1.0]])
    >>> prototypes([spread, narrow], "unnormalised").norm(dim=-1)
    tensor([0.7071, 1.0000])
    >>> prototypes([spread, narrow], "mean_of_unit").norm(dim=-1)
    tensor([1.0000, 1.0000])
    """
    means = torch.stack([F.normalize(prompts, dim=-1).mean(0) for prompts in classes])
    return F.normalize(means, dim=-1) if how == "mean_of_unit" else means


def similarities(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Dot products [..., C] of unit embeddings [..., E] with prototypes [C, E]; cosines where those are unit too."""
    return embeddings @ prototypes.T


def compositional_difference(embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """Anomaly score [...] of unit embeddings [..., E]: anomalous minus normal dot product, −2 to 2, cut at 0.

    prototypes [2, E], normal first. With unit prototypes the sign is that of WinCLIP's text score − ½.

    >>> compositional_difference(torch.eye(2), torch.eye(2))
    tensor([-1.,  1.])
    """
    dots = similarities(embeddings, prototypes)
    return dots[..., 1] - dots[..., 0]


def decide(stage: Stage, similarity: Tensor, anomalous: Tensor | None = None) -> Tensor:
    """The type [n] of each image from its similarities to the classes [n, 1 + D], good first.

    single        the best of good and all defects
    two           good where ``anomalous`` [n] bool, the decision of a first stage, is False; elsewhere the best defect
    defects_only  the best defect, whatever good says: for images that are known to be anomalous

    Ties go to the first class. Raises ValueError where the stage needs ``anomalous``, or a defect, and has none.

    >>> similarity = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.1, 0.2]])
    >>> decide("single", similarity), decide("two", similarity, torch.tensor([False, True]))
    (tensor([0, 0]), tensor([0, 2]))
    """
    if stage == "single":
        return similarity.argmax(-1)
    if similarity.shape[-1] < 2:
        raise ValueError(f"stage {stage} chooses among defects, and there is none")
    best = 1 + similarity[..., 1:].argmax(-1)
    if stage == "defects_only":
        return best
    if anomalous is None:
        raise ValueError("stage two needs the decision of a first stage")
    return torch.where(anomalous, best, GOOD)


def patch_probabilities(
    windows: Mapping[int, Tensor], incidences: Mapping[int, Tensor], prototypes: Tensor, temperature: float
) -> Tensor:
    """P(class) [B, g², C] at each patch, from the windows that cover it.

    windows side -> unit embeddings [B, n, E]; incidences side -> [n, g²], as for WinCLIP's maps; at least one side.

    Each window's similarities become probabilities by a softmax over classes / temperature. A patch has the mean over
    its windows, and the mean over sides: an arithmetic one, because a harmonic one, which is right for a single
    anomaly score, would let the one window that a defect does not reach silence all the others, and no longer sum to 1.
    """
    maps = []
    for side, embeddings in windows.items():
        covers = incidences[side]
        found = (similarities(embeddings, prototypes) / temperature).softmax(-1)
        maps.append(torch.einsum("np,bnc->bpc", covers, found) / covers.sum(0)[:, None])
    return torch.stack(maps).mean(0)


def type_map(probabilities: Tensor, anomalous: Tensor) -> Tensor:
    """The type [B, g²] at each patch: the likeliest defect where ``anomalous`` [B, g²] bool, good elsewhere.

    probabilities [B, g², 1 + D]. What is anomalous is for the anomaly map and a threshold to say; this says what it is.

    >>> type_map(torch.tensor([[[0.6, 0.1, 0.3], [0.6, 0.1, 0.3]]]), torch.tensor([[True, False]]))
    tensor([[2, 0]])
    """
    return decide("two", probabilities, anomalous)
