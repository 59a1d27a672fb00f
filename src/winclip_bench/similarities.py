"""How similar images are to references, remembered: any k and any draw is a maximum over what is already known."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from winclip_bench.encoding import Encoder, ImageFile
from winclip_bench.methods.winclip import max_similarity

_BUDGET = 2**30  # bytes; one reference of a category of 100 images is about 0.25 MB at 15 × 15 patches


class Similarities:
    """Maximal similarity of every position of a set of images to each reference, computed once per reference.

    The least recently used are dropped beyond a fixed budget of memory.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[tuple[str, str, str, bool], Tensor] = OrderedDict()
        self._bytes = 0

    def to_nearest(
        self, images: Sequence[ImageFile], references: Sequence[ImageFile], kind: str, norm: bool = False
    ) -> Tensor:
        """Cosines [T, n] of the images' n positions of a kind with the most similar ones of any reference.

        norm   ln_post on both sides first
        """
        together = hashlib.sha256("\n".join(image.sha256 for image in images).encode()).hexdigest()
        queries: Tensor | None = None
        nearest: Tensor | None = None
        for reference in dict.fromkeys(references):
            key = (together, reference.sha256, kind, norm)
            similarity = self._known.get(key)
            if similarity is None:
                queries = self._features(images, kind, norm) if queries is None else queries
                similarity = max_similarity(queries, self._features([reference], kind, norm).flatten(0, 1))
                self._remember(key, similarity)
            else:
                self._known.move_to_end(key)
            nearest = similarity if nearest is None else torch.maximum(nearest, similarity)
        assert nearest is not None, "there is at least one reference"
        return nearest

    def _features(self, images: Sequence[ImageFile], kind: str, norm: bool) -> Tensor:
        features = self._encoder.features(images, kind)
        if norm:
            features = self._encoder.backbone().normalise_patches(features)
        return F.normalize(features, dim=-1) if kind == "patches" else features  # windows are unit embeddings

    def _remember(self, key: tuple[str, str, str, bool], similarity: Tensor) -> None:
        self._known[key] = similarity
        self._bytes += similarity.nbytes
        while self._bytes > _BUDGET and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].nbytes
