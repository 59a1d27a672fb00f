"""An open_clip vision transformer, taken apart into what a pass over windows needs.

The encoder runs the blocks itself, on any subset of the tokens; this module finds the parts of each family of
towers and refuses, with a sentence, those whose tokens cannot be dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    ResidualAttentionBlock,
    VisionTransformer,
)
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from winclip_bench.errors import InputError


@dataclass
class Block:
    """One transformer block on rows of tokens: x += project(attention(qkv(norm(x)))); x += mlp(x).

    heads                  number of heads
    norm                   [R, width] -> [R, width], before attention
    qkv_weight, qkv_bias   [3·A, width], [3·A] or None: query, key and value projections, A = heads · head size
    query_norm, key_norm   [..., head size] -> same, before the rotation
    project                [R, A] -> [R, width], everything between attention and its residual addition
    mlp                    [R, width] -> [R, width], everything of the second residual branch
    """

    heads: int
    norm: nn.Module
    qkv_weight: Tensor
    qkv_bias: Tensor | None
    query_norm: nn.Module
    key_norm: nn.Module
    project: nn.Module
    mlp: nn.Module


@dataclass
class Tower:
    """A vision transformer with one class token in front of grid² patch tokens.

    embed        pixels [B, 3, S, S] -> tokens [B, 1+grid², width], positional embedding and ln_pre applied
    rotary       [grid², 2 · head size] sines and cosines of the patches, or None; rotate_half is their layout
    pool         tokens [N, L, width], class token first -> embeddings [N, E], not normalised
    class_token_pooling   pool reads the class token alone
    patch_norm   ln_post, for the protocols that take patch features after it
    """

    grid: int
    width: int
    blocks: list[Block]
    embed: Callable[[Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]
    class_token_pooling: bool
    patch_norm: nn.Module
    rotary: Tensor | None = None
    rotate_half: bool = False


class Scale(nn.Module):
    """Multiply by a learnt vector (layer scale)."""

    def __init__(self, gamma: nn.Parameter) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def take_apart(visual: Any, architecture: str) -> Tower:
    """The parts of an open_clip vision tower.

    Raises InputError for towers without a class token and for those whose tokens cannot be dropped.
    """
    if isinstance(visual, VisionTransformer):
        return _native(visual, architecture)
    if isinstance(visual, TimmModel) and type(visual.trunk) in (Eva, TimmVisionTransformer):
        return _timm(visual, architecture)
    kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
    raise InputError(
        f"backbone.architecture={architecture} is a {kind}, not a plain vision transformer with a class token; "
        "WinCLIP needs one, for example ViT-B-16-plus-240"
    )


def _square_grid(grid_size: tuple[int, int], architecture: str) -> int:
    if grid_size[0] != grid_size[1]:
        raise InputError(
            f"backbone.architecture={architecture} has a {grid_size[0]}×{grid_size[1]} grid; a square one is needed"
        )
    return grid_size[0]


def _native(visual: Any, architecture: str) -> Tower:
    def pool(tokens: Tensor) -> Tensor:
        pooled = visual._pool(tokens)[0]
        return pooled if visual.proj is None else pooled @ visual.proj

    return Tower(
        grid=_square_grid(visual.grid_size, architecture),
        width=visual.conv1.out_channels,
        blocks=[_native_block(block, architecture) for block in visual.transformer.resblocks],
        embed=visual._embeds,
        pool=pool,
        class_token_pooling=visual.attn_pool is None and visual.pool_type == "tok",
        patch_norm=visual.ln_post,
    )


def _native_block(block: Any, architecture: str) -> Block:
    if isinstance(block, ResidualAttentionBlock):
        attention = block.attn
        return Block(
            heads=attention.num_heads,
            norm=block.ln_1,
            qkv_weight=attention.in_proj_weight,
            qkv_bias=attention.in_proj_bias,
            query_norm=nn.Identity(),
            key_norm=nn.Identity(),
            project=nn.Sequential(attention.out_proj, block.ls_1),
            mlp=nn.Sequential(block.ln_2, block.mlp, block.ls_2),
        )
    if isinstance(block, CustomResidualAttentionBlock):
        custom = block.attn
        if custom.scaled_cosine or custom.scale_heads:
            raise InputError(f"backbone.architecture={architecture} scales attention per head, which is not supported")
        return Block(
            heads=custom.num_heads,
            norm=block.ln_1,
            qkv_weight=custom.in_proj_weight,
            qkv_bias=custom.in_proj_bias,
            query_norm=custom.ln_q,
            key_norm=custom.ln_k,
            project=nn.Sequential(custom.ln_inner, custom.out_proj, block.ln_attn, block.ls_1),
            mlp=nn.Sequential(block.ln_2, block.mlp, block.ls_2),
        )
    raise InputError(f"backbone.architecture={architecture} has blocks of an unknown kind, {type(block).__name__}")


def _timm(visual: Any, architecture: str) -> Tower:
    trunk = visual.trunk
    if trunk.cls_token is None or trunk.num_prefix_tokens != 1:
        raise InputError(
            f"backbone.architecture={architecture} has {trunk.num_prefix_tokens} class and register tokens; "
            "WinCLIP needs a vision transformer with exactly one class token, for example ViT-B-16-plus-240"
        )
    if getattr(trunk, "rope_mixed", False):
        raise InputError(f"backbone.architecture={architecture} learns its rotations per block, which is not supported")

    rotary: Tensor | None = None
    if isinstance(trunk, Eva):
        with torch.no_grad():
            pixels = torch.zeros(1, 3, *visual.image_size, device=trunk.cls_token.device, dtype=trunk.cls_token.dtype)
            rotary = trunk._pos_embed(trunk.patch_embed(pixels))[1]

    def embed(pixels: Tensor) -> Tensor:
        tokens = trunk._pos_embed(trunk.patch_embed(pixels))
        return trunk.norm_pre(tokens[0] if isinstance(trunk, Eva) else tokens)

    def pool(tokens: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(tokens)))

    return Tower(
        grid=_square_grid(trunk.patch_embed.grid_size, architecture),
        width=trunk.embed_dim,
        blocks=[_timm_block(block, architecture) for block in trunk.blocks],
        embed=embed,
        pool=pool,
        class_token_pooling=trunk.attn_pool is None and trunk.global_pool == "token",
        patch_norm=trunk.norm,
        rotary=rotary,
        rotate_half=bool(getattr(trunk.blocks[0].attn, "rotate_half", False)),
    )


def _timm_block(block: Any, architecture: str) -> Block:
    attention = block.attn
    if type(block) not in (EvaBlock, EvaBlockPostNorm, TimmBlock) or attention.gate is not None:
        raise InputError(f"backbone.architecture={architecture} has blocks of an unknown kind, {type(block).__name__}")
    if getattr(attention, "num_kv_groups", 1) > 1:
        raise InputError(f"backbone.architecture={architecture} shares keys between heads, which is not supported")

    if attention.qkv is None:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        biases = [projection.bias for projection in projections]
        size = attention.q_proj.out_features
    else:
        weight = attention.qkv.weight
        if getattr(attention, "q_bias", None) is not None:
            biases = [attention.q_bias, attention.k_bias, attention.v_bias]
        elif attention.qkv.bias is not None:
            biases = list(attention.qkv.bias.chunk(3))
        else:
            biases = [None, None, None]
        size = len(weight) // 3
    bias = None
    if any(part is not None for part in biases):
        bias = torch.cat([weight.new_zeros(size) if part is None else part for part in biases]).detach()

    scales = (_layer_scale(block, 1), _layer_scale(block, 2))
    post_norm = isinstance(block, EvaBlockPostNorm)
    after, before = (block.norm1, nn.Identity()) if post_norm else (nn.Identity(), block.norm1)
    mlp = (block.mlp, block.norm2) if post_norm else (block.norm2, block.mlp)
    return Block(
        heads=attention.num_heads,
        norm=before,
        qkv_weight=weight.detach(),
        qkv_bias=bias,
        query_norm=attention.q_norm,
        key_norm=attention.k_norm,
        project=nn.Sequential(attention.norm, attention.proj, after, scales[0]),
        mlp=nn.Sequential(*mlp, scales[1]),
    )


def _layer_scale(block: Any, number: int) -> nn.Module:
    """timm keeps layer scale as a parameter gamma_1 or a module ls1, and leaves it out of post-norm blocks."""
    gamma = getattr(block, f"gamma_{number}", None)
    if gamma is not None:
        return Scale(gamma)
    return getattr(block, f"ls{number}", nn.Identity())
