"""What images have been compared with, remembered: any k and any draw is a maximum over what is already known, and
text scores are the same for all of them."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from winclip_bench.encoding import Encoder, ImageFile
from winclip_bench.methods.winclip import max_similarity, text_scores

_BUDGET = 2**30  # bytes; 100 images of 15 × 15 patches: 0.25 MB for each reference, and 180 MB of features


class Comparisons:
    """Images against references and texts, each computed once.

    The least recently used are dropped beyond a fixed budget of memory.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0

    def to_nearest(
        self, images: Sequence[ImageFile], references: Sequence[ImageFile], kind: str, norm: bool = False
    ) -> Tensor:
        """Cosines [T, n] of the images' n positions of a kind with the most similar ones of any reference.

        norm   ln_post on both sides first
        """
        together = _digest(images)

        def compare(reference: ImageFile) -> Tensor:
            queries = self._remembered((together, kind, norm), lambda: self._features(images, kind, norm))
            return max_similarity(queries, self._features([reference], kind, norm).flatten(0, 1))

        nearest: Tensor | None = None
        for reference in dict.fromkeys(references):
            similarity = self._remembered((together, reference.sha256, kind, norm), partial(compare, reference))
            nearest = similarity if nearest is None else torch.maximum(nearest, similarity)
        assert nearest is not None, "there is at least one reference"
        return nearest

    def to_text(self, images: Sequence[ImageFile], kind: str, prototypes: Tensor, temperature: float) -> Tensor:
        """P(anomalous) [T] of images or [T, n] of their windows; prototypes [2, E], normal first."""
        key = (_digest(images), kind, prototypes.numpy().tobytes(), temperature)
        return self._remembered(key, lambda: text_scores(self._encoder.features(images, kind), prototypes, temperature))

    def _features(self, images: Sequence[ImageFile], kind: str, norm: bool) -> Tensor:
        features = self._encoder.features(images, kind)
        if norm:
            features = self._encoder.backbone().normalise_patches(features)
        return F.normalize(features, dim=-1) if kind == "patches" else features  # windows are unit embeddings

    def _remembered(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        computed = compute()
        if computed.nbytes > _BUDGET // 2:  # it would push out all that is remembered, and soon be pushed out itself
            return computed
        self._known[key] = computed
        self._bytes += computed.nbytes
        while self._bytes > _BUDGET and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
        return computed


def _digest(images: Sequence[ImageFile]) -> str:
    """Of which images are compared, and in which order."""
    return hashlib.sha256("\n".join(image.sha256 for image in images).encode()).hexdigest()
