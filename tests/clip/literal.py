"""WinCLIP as the paper words it, slowly: one window at a time through open_clip's own modules, loops for the rest.

Nothing here is shared with the package, so that agreement means something.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from torch import Tensor


def windows(grid: int, side: int) -> Iterator[list[int]]:
    """Patches of each window, row by row."""
    for top in range(grid - side + 1):
        for left in range(grid - side + 1):
            yield [(top + row) * grid + left + column for row in range(side) for column in range(side)]


@torch.no_grad()
def embed_tokens(visual: Any, pixels: Tensor, patches: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """The embedding [E] of one image [3, S, S] from the class token and some patches (None: all), and its patch
    tokens [n, width] after the last block."""
    if isinstance(visual, TimmModel):
        return _timm(visual, pixels, patches)
    x = visual.conv1(pixels[None]).flatten(2).transpose(1, 2)[0]
    x = torch.cat([visual.class_embedding[None], x]) + visual.positional_embedding
    if patches is not None:
        x = x[[0, *(patch + 1 for patch in patches)]]
    x = visual.transformer(visual.ln_pre(x)[None])
    if visual.attn_pool is not None:
        pooled = visual.ln_post(visual.attn_pool(x))[0, 0]
    elif visual.pool_type == "avg":
        pooled = visual.ln_post(x[0, 1:].mean(0)) if visual.final_ln_after_pool else visual.ln_post(x)[0, 1:].mean(0)
    else:
        pooled = visual.ln_post(x[0, 0])
    return pooled @ visual.proj, x[0, 1:]


def _timm(visual: Any, pixels: Tensor, patches: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    trunk = visual.trunk
    prefix = trunk.num_prefix_tokens
    x = trunk._pos_embed(trunk.patch_embed(pixels[None]))
    x, rope = x if isinstance(x, tuple) else (x, None)
    if patches is not None:
        x = x[:, [*range(prefix), *(patch + prefix for patch in patches)]]
        rope = None if rope is None else rope[patches]
    x = trunk.norm_pre(x)
    for block in trunk.blocks:
        x = block(x) if rope is None else block(x, rope=rope)
    return visual.head(trunk.forward_head(trunk.norm(x)))[0], x[0, prefix:]


def features(visual: Any, pixels: Tensor, grid: int, scales: Sequence[int]) -> tuple[Tensor, dict[int, Tensor], Tensor]:
    """Unit image embedding [E], unit window embeddings per scale [n, E], patch tokens [g², width] of one image."""
    image, patches = embed_tokens(visual, pixels, None)
    per_scale = {
        side: torch.stack([F.normalize(embed_tokens(visual, pixels, patch)[0], dim=0) for patch in windows(grid, side)])
        for side in scales
    }
    return F.normalize(image, dim=0), per_scale, patches


def _harmonic(values: list[float]) -> float:
    return 0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values)


def _probability(embedding: Tensor, prototypes: Tensor, temperature: float) -> float:
    normal, anomalous = (float(embedding.double() @ prototype.double()) / temperature for prototype in prototypes)
    return 1 / (1 + math.exp(normal - anomalous))


def _spread(scores: list[float], grid: int, side: int) -> list[float]:
    """Window scores to patches."""
    covering: list[list[float]] = [[] for _ in range(grid * grid)]
    for score, patches in zip(scores, windows(grid, side), strict=True):
        for patch in patches:
            covering[patch].append(score)
    return [_harmonic(values) for values in covering]


def _distances(queries: Tensor, references: Tensor) -> list[float]:
    queries, references = F.normalize(queries.double(), dim=1), F.normalize(references.double(), dim=1)
    return [max(0.0, min(float(1 - query @ reference) / 2 for reference in references)) for query in queries]


def winclip(
    query: tuple[Tensor, dict[int, Tensor], Tensor],
    references: Sequence[tuple[Tensor, dict[int, Tensor], Tensor]],
    prototypes: Tensor,
    grid: int,
    temperature: float,
) -> tuple[float, Tensor]:
    """Image score and map [g, g] of one image from the features of itself and of the references."""
    image, per_scale, patches = query
    text = _probability(image, prototypes, temperature)
    text_maps = [
        _spread([_probability(window, prototypes, temperature) for window in embeddings], grid, side)
        for side, embeddings in per_scale.items()
    ]
    zero_shot = [_harmonic([*values, text]) for values in zip(*text_maps, strict=True)]
    if not references:
        return text, torch.tensor(zero_shot).reshape(grid, grid)

    association_maps = [_distances(patches, torch.cat([reference[2] for reference in references]))]
    for side, embeddings in per_scale.items():
        gallery = torch.cat([reference[1][side] for reference in references])
        association_maps.append(_spread(_distances(embeddings, gallery), grid, side))
    association = [sum(values) / len(values) for values in zip(*association_maps, strict=True)]
    combined = [(a + b) / 2 for a, b in zip(zero_shot, association, strict=True)]
    return (text + max(association)) / 2, torch.tensor(combined).reshape(grid, grid)
