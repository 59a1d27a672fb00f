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

    def __getitem__(self, images: slice) -> "Features":
        """Features of some of the images."""
        return Features(
            self.image[images], {side: part[images] for side, part in self.windows.items()}, self.patches[images]
        )

    def to(self, device: torch.device | str) -> "Features":
        """The same on another device."""
        windows = {side: part.to(device) for side, part in self.windows.items()}
        return Features(self.image.to(device), windows, self.patches.to(device))


class Group:
    """Sequences of equal length among the packed rows: `count` per image, each of `length` tokens.

    tokens   [count, length] which of an image's grid tokens (0 is the class token) each sequence consists of
    rotary   [count, 1, length-1, 2 · head size] rotations of its patches, or None
    """

    def __init__(self, patches: Tensor, rotary: Tensor | None) -> None:
        self.count = len(patches)
        self.length = patches.shape[1] + 1
        self.tokens = torch.cat([patches.new_zeros(self.count, 1), patches + 1], 1)
        self.rotary = None if rotary is None else rotary[patches][:, None]


@torch.inference_mode()
def encode(tower: Tower, pixels: Tensor, scales: Sequence[int]) -> Features:
    """Image, window and patch features of a batch.

    pixels [B, 3, S, S], normalised; scales are window sides in patches, each from 1 to the grid.
    """
    sides = list(scales)
    everything = torch.arange(tower.grid**2, device=pixels.device)[None]
    groups = [
        Group(everything, tower.rotary),
        *(Group(window_patches(tower.grid, side).to(pixels.device), tower.rotary) for side in sides),
    ]
    grid_tokens = tower.embed(pixels)
    *early, last = tower.blocks

    if early:
        rows = _first_block(early[0], groups, grid_tokens, tower.rotate_half)
        for block in early[1:]:
            rows = _block(block, groups, rows, len(pixels), tower.rotate_half)
    else:
        rows = _pack([grid_tokens[:, group.tokens] for group in groups])

    outputs = _last_block(last, groups, rows, len(pixels), tower)
    image, *windows = (
        F.normalize(tower.pool(output).float(), dim=-1).reshape(len(pixels), group.count, -1)
        for output, group in zip(outputs, groups, strict=True)
    )
    return Features(
        image=image[:, 0],
        windows=dict(zip(sides, windows, strict=True)),
        patches=outputs[0][:, 1:].float(),
    )


def _pack(parts: Sequence[Tensor]) -> Tensor:
    """Tensors [..., width] as the rows of one matrix, part after part."""
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _unpack(rows: Tensor, groups: Sequence[Group], batch: int) -> list[Tensor]:
    """The rows of each group as sequences [B · count, length, columns]."""
    parts = rows.split([batch * group.count * group.length for group in groups])
    return [part.reshape(batch * group.count, group.length, -1) for part, group in zip(parts, groups, strict=True)]


def _first_block(block: Block, groups: Sequence[Group], grid_tokens: Tensor, rotate_half: bool) -> Tensor:
    """The first block, whose norm and projections are computed on the grid and gathered."""
    qkv = F.linear(block.norm(grid_tokens), block.qkv_weight, block.qkv_bias)
    attended = [
        _attention(block, group, qkv[:, group.tokens].flatten(0, 1), rotate_half).flatten(0, 1) for group in groups
    ]
    rows = _pack([grid_tokens[:, group.tokens] for group in groups]) + block.project(torch.cat(attended))
    return rows + block.mlp(rows)


def _block(block: Block, groups: Sequence[Group], rows: Tensor, batch: int, rotate_half: bool) -> Tensor:
    qkv = F.linear(block.norm(rows), block.qkv_weight, block.qkv_bias)
    attended = [
        _attention(block, group, part, rotate_half).flatten(0, 1)
        for group, part in zip(groups, _unpack(qkv, groups, batch), strict=True)
    ]
    rows = rows + block.project(torch.cat(attended))
    return rows + block.mlp(rows)


def _last_block(block: Block, groups: Sequence[Group], rows: Tensor, batch: int, tower: Tower) -> list[Tensor]:
    """The last block's output per group: all tokens of the image, and of each window what pooling reads.

    A window's class token needs the keys and values of all its tokens, but only its own query, projection
    and MLP.
    """
    if not tower.class_token_pooling:
        return _unpack(_block(block, groups, rows, batch, tower.rotate_half), groups, batch)

    full, windows = groups[:1], groups[1:]
    full_rows = rows[: batch * full[0].length]
    outputs = _unpack(_block(block, full, full_rows, batch, tower.rotate_half), full, batch)
    if not windows:
        return outputs

    window_rows = rows[len(full_rows) :]
    normed = block.norm(window_rows)
    size = len(block.qkv_weight) // 3
    query_bias, key_value_bias = (None, None) if block.qkv_bias is None else block.qkv_bias.split([size, 2 * size])
    key_value = _unpack(F.linear(normed, block.qkv_weight[size:], key_value_bias), windows, batch)
    class_normed = [part[:, 0] for part in _unpack(normed, windows, batch)]
    query = F.linear(torch.cat(class_normed), block.qkv_weight[:size], query_bias)
    queries = query.split([len(part) for part in class_normed])
    attended = [
        _class_attention(block, group, query, part, tower.rotate_half)
        for group, query, part in zip(windows, queries, key_value, strict=True)
    ]
    class_rows = torch.cat([part[:, 0] for part in _unpack(window_rows, windows, batch)])
    class_rows = class_rows + block.project(torch.cat(attended))
    class_rows = class_rows + block.mlp(class_rows)
    return outputs + [part[:, None] for part in class_rows.split([len(query) for query in queries])]


def _heads(block: Block, part: Tensor) -> Tensor:
    """[N, L, A] -> [N, heads, L, head size]"""
    return part.unflatten(-1, (block.heads, -1)).transpose(1, 2)


def _attention(block: Block, group: Group, qkv: Tensor, rotate_half: bool) -> Tensor:
    """Self-attention within each sequence: [N, L, 3·A] -> [N, L, A]."""
    query, key, value = (_heads(block, part) for part in qkv.chunk(3, -1))
    query = _rotate(block.query_norm(query), group, rotate_half)
    key = _rotate(block.key_norm(key), group, rotate_half)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _class_attention(block: Block, group: Group, query: Tensor, key_value: Tensor, rotate_half: bool) -> Tensor:
    """Attention of the class token alone: [N, A] and [N, L, 2·A] -> [N, A]. It has no position to rotate."""
    key, value = (_heads(block, part) for part in key_value.chunk(2, -1))
    key = _rotate(block.key_norm(key), group, rotate_half)
    query = block.query_norm(_heads(block, query[:, None]))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(1)


def _rotate(x: Tensor, group: Group, rotate_half: bool) -> Tensor:
    """Rotate the patches' queries or keys [B · count, heads, L, head size] by their positions in the grid."""
    if group.rotary is None:
        return x
    per_image = x.unflatten(0, (-1, group.count))
    rotated = apply_rot_embed_cat(per_image[..., 1:, :], group.rotary, half=rotate_half)
    return torch.cat([per_image[..., :1, :], rotated], -2).flatten(0, 1).to(x.dtype)
