"""Images to features: the full pass and every window of every scale, as one packed pass.

All token sequences of a batch, the whole image and each window, are rows of one matrix, so that each linear
layer is one matrix product; only attention sees them as sequences, a group of equal length at a time. What the
sequences share is computed once: the first block's norm and projections read the same grid tokens for every
window. What nobody reads is not computed: where the tower pools its class token, the last block computes just
that token's row of a window. The result is that of running each sequence through the tower alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor

from winclip_bench.clip.towers import Block, Tower
from winclip_bench.clip.windows import window_patches

_SHORT = 16  # tokens: a window of 3×3 patches and its class token, with room to spare


@dataclass
class Features:
    """What an image leaves behind, B images (or tiles) at a time.

    image     [B, E] unit image embeddings
    windows   side -> [B, (g-side+1)², E] unit window embeddings
    patches   [B, g², width] patch tokens of the last block, before ln_post, not normalised
    """

    image: Tensor
    windows: dict[int, Tensor]
    patches: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence["Features"]) -> "Features":
        """The images of all parts, one after the other."""
        return cls(
            torch.cat([part.image for part in parts]),
            {side: torch.cat([part.windows[side] for part in parts]) for side in parts[0].windows},
            torch.cat([part.patches for part in parts]),
        )

    def to(self, device: torch.device | str) -> "Features":
        """The same on another device."""
        windows = {side: part.to(device) for side, part in self.windows.items()}
        return Features(self.image.to(device), windows, self.patches.to(device))


class Group:
    """Sequences of equal length among the packed rows: `count` per image, each of `length` tokens.

    prefix   1 where a class token comes first, 0 in towers without one
    tokens   [count, length] which of an image's grid tokens, class token included, each sequence consists of
    rotary   [count, 1, patches, 2 · head size] rotations of its patches, or None
    whole    whether every token's output is wanted, or just what pooling reads
    """

    def __init__(self, patches: Tensor, prefix: int, rotary: Tensor | None, whole: bool) -> None:
        self.count = len(patches)
        self.prefix = prefix
        self.length = prefix + patches.shape[1]
        self.tokens = torch.cat([patches.new_zeros(self.count, prefix), patches + prefix], 1)
        self.rotary = None if rotary is None else rotary[patches][:, None]
        self.whole = whole


@torch.inference_mode()
def encode(tower: Tower, pixels: Tensor, scales: Sequence[int], full: bool = True) -> Features:
    """Image, window and patch features of a batch, in float32 whatever the tower computes in.

    pixels [B, 3, S, S], normalised; scales are window sides in patches, each from 1 to the grid. Without `full`,
    image and patches are not computed and come back empty.
    """
    sides, batch = list(scales), len(pixels)
    everything = torch.arange(tower.grid**2)[None]
    groups = [Group(everything.to(pixels.device), tower.prefix, tower.rotary, whole=True)] if full else []
    groups += [
        Group(window_patches(tower.grid, side).to(pixels.device), tower.prefix, tower.rotary, whole=False)
        for side in sides
    ]
    grid_tokens = tower.embed(pixels).to(tower.dtype)
    *early, last = tower.blocks

    rows = torch.cat([grid_tokens[:, group.tokens].reshape(-1, tower.width) for group in groups])
    if early:
        rows = early[0].finish(rows, _attention_on_grid(early[0], groups, grid_tokens, tower.rotate_half))
    for block in early[1:]:
        rows = block.finish(rows, _attention_on_rows(block, groups, rows, batch, tower.rotate_half))
    outputs = _last_block(last, groups, rows, batch, tower)

    pooled = [
        F.normalize(tower.pool(output.float()), dim=-1).reshape(batch, group.count, -1)
        for output, group in zip(outputs, groups, strict=True)
    ]
    windows = dict(zip(sides, pooled[1:] if full else pooled, strict=True))
    if full:
        return Features(image=pooled[0][:, 0], windows=windows, patches=outputs[0][:, tower.prefix :].float())
    return Features(image=pixels.new_empty(batch, 0), windows=windows, patches=pixels.new_empty(batch, 0, tower.width))


def _sequences(rows: Tensor, groups: Sequence[Group], batch: int) -> list[Tensor]:
    """The rows of each group as sequences [B · count, length, columns]."""
    parts = rows.split([batch * group.count * group.length for group in groups])
    return [part.reshape(batch * group.count, group.length, -1) for part, group in zip(parts, groups, strict=True)]


def _attention_on_grid(block: Block, groups: Sequence[Group], grid_tokens: Tensor, rotate_half: bool) -> Tensor:
    """Attention of the first block, whose norm and projections are computed on the grid once and gathered."""
    qkv = block.qkv(block.norm(grid_tokens).flatten(0, 1)).unflatten(0, grid_tokens.shape[:2])
    return torch.cat([_attention(block, group, qkv[:, group.tokens].flatten(0, 1), rotate_half) for group in groups])


def _attention_on_rows(block: Block, groups: Sequence[Group], rows: Tensor, batch: int, rotate_half: bool) -> Tensor:
    """Attention of any other block: [R, width] -> [R, A]."""
    sequences = _sequences(block.qkv(block.norm(rows)), groups, batch)
    return torch.cat(
        [_attention(block, group, part, rotate_half) for group, part in zip(groups, sequences, strict=True)]
    )


def _last_block(block: Block, groups: Sequence[Group], rows: Tensor, batch: int, tower: Tower) -> list[Tensor]:
    """The last block's output of each group: of every token, or where that is all that pooling reads, of the class
    token alone, which needs the keys and values of all tokens but only its own query, projection and MLP."""
    if not tower.class_token_pooling:
        rows = block.finish(rows, _attention_on_rows(block, groups, rows, batch, tower.rotate_half))
        return _sequences(rows, groups, batch)

    whole = [group for group in groups if group.whole]
    windows = [group for group in groups if not group.whole]
    count = batch * sum(group.count * group.length for group in whole)
    whole_rows, rows = rows[:count], rows[count:]
    outputs: list[Tensor] = []
    if whole:
        attended = _attention_on_rows(block, whole, whole_rows, batch, tower.rotate_half)
        outputs += _sequences(block.finish(whole_rows, attended), whole, batch)
    if windows:
        normed = block.norm(rows)
        key_values = _sequences(block.key_value(normed), windows, batch)
        queries = block.query(_class_tokens(normed, windows, batch))
        sizes = [batch * group.count for group in windows]
        attended = torch.cat(
            [
                _class_attention(block, group, query, key_value, tower.rotate_half)
                for group, query, key_value in zip(windows, queries.split(sizes), key_values, strict=True)
            ]
        )
        finished = block.finish(_class_tokens(rows, windows, batch), attended)
        outputs += [part[:, None] for part in finished.split(sizes)]
    return outputs


def _class_tokens(rows: Tensor, groups: Sequence[Group], batch: int) -> Tensor:
    """The rows [sum of B · count, width] of the class tokens."""
    return torch.cat([part[:, 0] for part in _sequences(rows, groups, batch)])


def _heads(block: Block, part: Tensor) -> Tensor:
    """[N, L, A] -> [N, heads, L, head size]"""
    return part.unflatten(-1, (block.heads, -1)).transpose(1, 2)


def _attention(block: Block, group: Group, qkv: Tensor, rotate_half: bool) -> Tensor:
    """Self-attention within each sequence: [N, L, 3·A] -> [N·L, A]."""
    query, key, value = (_heads(block, part) for part in qkv.chunk(3, -1))
    query = _rotate(block.query_norm(query), group, rotate_half)
    key = _rotate(block.key_norm(key), group, rotate_half)
    return _attend(query, key, value).transpose(1, 2).flatten(2).flatten(0, 1)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q·kᵀ / √d)·v of [N, heads, L, d]."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or query.shape[-2] > _SHORT:
        return F.scaled_dot_product_attention(query, key, value)
    # On sequences this short torch's kernel spends most of its time between them; two batched products do not. The
    # softmax runs over the first dimension, because over a last one of a few elements it cannot use wide registers.
    scores = torch.einsum("nhid,nhjd->nhij", query, key).movedim(-1, 0).contiguous().float()
    weights = scores.mul_(query.shape[-1] ** -0.5).softmax(0).to(value.dtype).movedim(0, -1)
    return torch.einsum("nhij,nhjd->nhid", weights, value)


def _class_attention(block: Block, group: Group, query: Tensor, key_value: Tensor, rotate_half: bool) -> Tensor:
    """Attention of the class token alone, which has no position to rotate: [N, A] and [N, L, 2·A] -> [N, A]."""
    key, value = (_heads(block, part) for part in key_value.chunk(2, -1))
    key = _rotate(block.key_norm(key), group, rotate_half)
    query = block.query_norm(_heads(block, query[:, None]))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)


def _rotate(x: Tensor, group: Group, rotate_half: bool) -> Tensor:
    """Rotate the patches' queries or keys [B · count, heads, L, head size] by their positions in the grid."""
    if group.rotary is None:
        return x
    per_image = x.unflatten(0, (-1, group.count))
    rotated = apply_rot_embed_cat(per_image[..., group.prefix :, :], group.rotary, half=rotate_half)
    return torch.cat([per_image[..., : group.prefix, :], rotated], -2).flatten(0, 1).to(x.dtype)
