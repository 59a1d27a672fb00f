"""An open_clip vision transformer, taken apart into what a pass over windows needs.

The encoder runs the blocks itself, on any subset of the tokens; this module finds the parts of each family of
towers and refuses, with a sentence, those whose tokens cannot be dropped.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import (
    CustomResidualAttentionBlock,
    ResidualAttentionBlock,
    VisionTransformer,
)
from timm.layers.mlp import GluMlp, SwiGLU
from timm.layers.mlp import Mlp as TimmMlp
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from winclip_bench.clip.linear import Linear
from winclip_bench.errors import InputError

_HIDDEN_BYTES = 24 * 2**20  # of an MLP's hidden layer at once, on a CPU


@dataclass
class Mlp:
    """rows + out_norm(second(middle(first(norm(rows))))); parameters are those of its matrices."""

    norm: nn.Module
    first: Callable[[Tensor], Tensor]
    middle: nn.Module
    second: Linear
    out_norm: nn.Module
    parameters: int

    def add_to(self, rows: Tensor) -> Tensor:
        """[R, width] -> [R, width], which may overwrite the rows.

        The hidden layer is the largest tensor of all, so it is made for a part of the rows at a time; parts this long
        are as fast as the whole.
        """
        hidden = self.parameters // (2 * rows.shape[1])
        parts = math.ceil(len(rows) * hidden * rows.element_size() / _HIDDEN_BYTES) if rows.device.type == "cpu" else 1
        if parts <= 1:
            return self._add_to(rows)
        for part in rows.chunk(parts):
            added = self._add_to(part)
            if added.data_ptr() != part.data_ptr():
                part.copy_(added)
        return rows

    def _add_to(self, rows: Tensor) -> Tensor:
        hidden = self.middle(self.first(self.norm(rows)))
        if isinstance(self.out_norm, nn.Identity):
            return self.second.add_to(rows, hidden)
        return rows + self.out_norm(self.second(hidden))


@dataclass
class Block:
    """One transformer block on rows of tokens [R, width].

    heads                  number of heads; A = heads · head size
    norm                   before attention
    qkv                    [R, width] -> [R, 3·A]: queries, keys and values
    query_norm, key_norm   [..., head size] -> same, before the rotation
    inner_norm             [R, A] -> same, of what attention gives
    out                    [R, A] -> [R, width]
    out_norm               [R, width] -> same, before the residual addition
    mlp                    the second residual branch
    """

    heads: int
    norm: nn.Module
    qkv: Linear
    query_norm: nn.Module
    key_norm: nn.Module
    inner_norm: nn.Module
    out: Linear
    out_norm: nn.Module
    mlp: Mlp

    @cached_property
    def query(self) -> Linear:
        """[R, width] -> [R, A], of `qkv`."""
        size = len(self.qkv.weight) // 3
        return Linear(self.qkv.weight[:size], None if self.qkv.bias is None else self.qkv.bias[:size])

    @cached_property
    def key_value(self) -> Linear:
        """[R, width] -> [R, 2·A], of `qkv`."""
        size = len(self.qkv.weight) // 3
        return Linear(self.qkv.weight[size:], None if self.qkv.bias is None else self.qkv.bias[size:])

    def finish(self, rows: Tensor, attended: Tensor) -> Tensor:
        """The block's output from its input rows [R, width] and what attention gave for them [R, A]."""
        attended = self.inner_norm(attended)
        if isinstance(self.out_norm, nn.Identity):
            rows = self.out.add_to(rows, attended)
        else:
            rows = rows + self.out_norm(self.out(attended))
        del attended  # before the largest tensor of all is made
        return self.mlp.add_to(rows)


@dataclass
class Tower:
    """A vision transformer on grid² patch tokens, with one class token in front of them or none.

    prefix       1 with a class token, 0 without
    dtype        of the blocks; embed, pool and patch_norm are float32
    embed        pixels [B, 3, S, S] -> tokens [B, prefix+grid², width], positional embedding and ln_pre applied
    rotary       [grid², 2 · head size] sines and cosines of the patches, or None; rotate_half is their layout
    pool         tokens [N, L, width], a class token first -> embeddings [N, E], not normalised
    class_token_pooling   pool reads the class token alone
    patch_norm   ln_post, for the protocols that take patch features after it
    """

    grid: int
    width: int
    dtype: torch.dtype
    blocks: list[Block]
    embed: Callable[[Tensor], Tensor]
    pool: Callable[[Tensor], Tensor]
    class_token_pooling: bool
    patch_norm: nn.Module
    prefix: int = 1
    rotary: Tensor | None = None
    rotate_half: bool = False


class Scale(nn.Module):
    """Multiply by a learnt vector (layer scale)."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = nn.Parameter(gamma, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def take_apart(visual: Any, architecture: str, dtype: torch.dtype = torch.float32) -> Tower:
    """The parts of an open_clip vision tower, its blocks in `dtype`.

    Raises InputError for towers whose tokens cannot be dropped.
    """
    if isinstance(visual, VisionTransformer):
        return _native(visual, architecture, dtype)
    if isinstance(visual, TimmModel) and type(visual.trunk) in (Eva, TimmVisionTransformer):
        return _timm(visual, architecture, dtype)
    kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
    raise InputError(
        f"backbone.architecture={architecture} is a {kind}, whose tokens cannot be dropped; "
        "WinCLIP needs a plain vision transformer, for example ViT-B-16-plus-240"
    )


def _square_grid(grid_size: tuple[int, int], architecture: str) -> int:
    if grid_size[0] != grid_size[1]:
        raise InputError(
            f"backbone.architecture={architecture} has a {grid_size[0]}×{grid_size[1]} grid; a square one is needed"
        )
    return grid_size[0]


def _native(visual: Any, architecture: str, dtype: torch.dtype) -> Tower:
    def pool(tokens: Tensor) -> Tensor:
        pooled = visual._pool(tokens)[0]
        return pooled if visual.proj is None else pooled @ visual.proj

    return Tower(
        grid=_square_grid(visual.grid_size, architecture),
        width=visual.conv1.out_channels,
        dtype=dtype,
        blocks=[_native_block(block, architecture, dtype) for block in visual.transformer.resblocks],
        embed=visual._embeds,
        pool=pool,
        class_token_pooling=visual.attn_pool is None and visual.pool_type == "tok",
        patch_norm=visual.ln_post,
    )


def _native_block(block: Any, architecture: str, dtype: torch.dtype) -> Block:
    custom = isinstance(block, CustomResidualAttentionBlock)
    if not custom and not isinstance(block, ResidualAttentionBlock):
        raise InputError(f"backbone.architecture={architecture} has blocks of an unknown kind, {type(block).__name__}")
    attention, mlp = block.attn, block.mlp
    if custom and (attention.scaled_cosine or attention.scale_heads):
        raise InputError(f"backbone.architecture={architecture} scales attention per head, which is not supported")
    out, out_norm = _scaled(attention.out_proj, block.ln_attn if custom else nn.Identity(), _gamma(block.ls_1), dtype)
    second, mlp_out_norm = _scaled(mlp.c_proj, nn.Identity(), _gamma(block.ls_2), dtype)
    return Block(
        heads=attention.num_heads,
        norm=_cast(block.ln_1, dtype),
        qkv=_linear(attention.in_proj_weight, attention.in_proj_bias, dtype),
        query_norm=_cast(attention.ln_q, dtype) if custom else nn.Identity(),
        key_norm=_cast(attention.ln_k, dtype) if custom else nn.Identity(),
        inner_norm=_cast(attention.ln_inner, dtype) if custom else nn.Identity(),
        out=out,
        out_norm=out_norm,
        mlp=Mlp(
            norm=_cast(block.ln_2, dtype),
            first=_linear(mlp.c_fc.weight, mlp.c_fc.bias, dtype, mlp.gelu),
            middle=_cast(mlp.ln, dtype) if custom else nn.Identity(),
            second=second,
            out_norm=mlp_out_norm,
            parameters=sum(weight.numel() for weight in mlp.parameters() if weight.ndim == 2),
        ),
    )


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself in float32, a copy in anything else; nothing where it does nothing."""
    if dtype == torch.float32 or not list(module.parameters()):
        return module
    return copy.deepcopy(module).to(dtype)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: nn.Module | None = None) -> Linear:
    return Linear(weight.to(dtype), None if bias is None else bias.to(dtype), activation)


def _gamma(layer_scale: nn.Module) -> Tensor | None:
    gamma = getattr(layer_scale, "gamma", None)
    return gamma.detach() if isinstance(gamma, Tensor) else None


def _scaled(linear: nn.Linear, norm: nn.Module, gamma: Tensor | None, dtype: torch.dtype) -> tuple[Linear, nn.Module]:
    """A layer and what follows it before the residual addition; layer scale becomes part of the weights."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if gamma is None:
        return _linear(weight, bias, dtype), _cast(norm, dtype)
    if isinstance(norm, nn.Identity):
        return _linear(weight * gamma[:, None], None if bias is None else bias * gamma, dtype), norm
    return _linear(weight, bias, dtype), _cast(nn.Sequential(norm, Scale(gamma)), dtype)


def _timm(visual: Any, architecture: str, dtype: torch.dtype) -> Tower:
    trunk = visual.trunk
    prefix = int(trunk.cls_token is not None)
    if trunk.num_prefix_tokens != prefix:
        raise InputError(
            f"backbone.architecture={architecture} has {trunk.num_prefix_tokens - prefix} register tokens; "
            "WinCLIP needs a vision transformer without them, for example ViT-B-16-plus-240"
        )
    if getattr(trunk, "rope_mixed", False):
        raise InputError(f"backbone.architecture={architecture} learns its rotations per block, which is not supported")

    rotary: Tensor | None = None
    if isinstance(trunk, Eva):
        with torch.no_grad():
            pixels = next(trunk.parameters()).new_zeros(1, 3, *visual.image_size)
            rotary = trunk._pos_embed(trunk.patch_embed(pixels))[1]

    def embed(pixels: Tensor) -> Tensor:
        tokens = trunk._pos_embed(trunk.patch_embed(pixels))
        return trunk.norm_pre(tokens[0] if isinstance(trunk, Eva) else tokens)

    def pool(tokens: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(trunk.norm(tokens)))

    return Tower(
        grid=_square_grid(trunk.patch_embed.grid_size, architecture),
        width=trunk.embed_dim,
        dtype=dtype,
        blocks=[_timm_block(block, architecture, dtype) for block in trunk.blocks],
        embed=embed,
        pool=pool,
        class_token_pooling=trunk.attn_pool is None and trunk.global_pool == "token",
        patch_norm=trunk.norm,
        prefix=prefix,
        rotary=rotary,
        rotate_half=bool(getattr(trunk.blocks[0].attn, "rotate_half", False)),
    )


def _timm_block(block: Any, architecture: str, dtype: torch.dtype) -> Block:
    attention = block.attn
    if type(block) not in (EvaBlock, EvaBlockPostNorm, TimmBlock) or attention.gate is not None:
        raise InputError(f"backbone.architecture={architecture} has blocks of an unknown kind, {type(block).__name__}")
    if getattr(attention, "num_kv_groups", 1) > 1:
        raise InputError(f"backbone.architecture={architecture} shares keys between heads, which is not supported")

    post_norm = isinstance(block, EvaBlockPostNorm)
    first_norm, second_norm = (nn.Identity(), nn.Identity()) if post_norm else (block.norm1, block.norm2)
    first_out, second_out = (block.norm1, block.norm2) if post_norm else (nn.Identity(), nn.Identity())
    gammas = [_timm_gamma(block, number) for number in (1, 2)]
    out, out_norm = _scaled(attention.proj, first_out, gammas[0], dtype)
    second, mlp_out_norm = _scaled(block.mlp.fc2, second_out, gammas[1], dtype)
    return Block(
        heads=attention.num_heads,
        norm=_cast(first_norm, dtype),
        qkv=_timm_qkv(attention, dtype),
        query_norm=_cast(attention.q_norm, dtype),
        key_norm=_cast(attention.k_norm, dtype),
        inner_norm=_cast(attention.norm, dtype),
        out=out,
        out_norm=out_norm,
        mlp=Mlp(
            norm=_cast(second_norm, dtype),
            first=_timm_first(block.mlp, architecture, dtype),
            middle=_cast(block.mlp.norm, dtype),
            second=second,
            out_norm=mlp_out_norm,
            parameters=sum(weight.numel() for weight in block.mlp.parameters() if weight.ndim == 2),
        ),
    )


def _timm_gamma(block: Any, number: int) -> Tensor | None:
    """timm keeps layer scale as a parameter gamma_1 or a module ls1, and leaves it out of post-norm blocks."""
    gamma = getattr(block, f"gamma_{number}", None)
    return _gamma(getattr(block, f"ls{number}", nn.Identity())) if gamma is None else gamma.detach()


def _timm_qkv(attention: Any, dtype: torch.dtype) -> Linear:
    """One layer for queries, keys and values, which timm keeps together or apart, with biases of their own or not."""
    if attention.qkv is None:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        biases = [projection.bias for projection in projections]
    else:
        weight = attention.qkv.weight
        if getattr(attention, "q_bias", None) is not None:
            biases = [attention.q_bias, attention.k_bias, attention.v_bias]
        else:
            biases = [None] * 3 if attention.qkv.bias is None else list(attention.qkv.bias.chunk(3))
    bias = None
    if any(part is not None for part in biases):
        nothing = weight.new_zeros(len(weight) // 3)
        bias = torch.cat([nothing if part is None else part for part in biases])
    return _linear(weight.detach(), bias, dtype)


def _timm_first(mlp: Any, architecture: str, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The layers of an MLP up to its activation, gated ones included."""
    if isinstance(mlp, TimmMlp):
        return _linear(mlp.fc1.weight, mlp.fc1.bias, dtype, mlp.act)
    if isinstance(mlp, SwiGLU):
        gate, value = (_linear(layer.weight, layer.bias, dtype) for layer in (mlp.fc1_g, mlp.fc1_x))
        return lambda x: mlp.act(gate(x)).mul_(value(x))
    if isinstance(mlp, GluMlp) and not mlp.gate_last:
        both = _linear(mlp.fc1.weight, mlp.fc1.bias, dtype)

        def gated(x: Tensor) -> Tensor:
            gate, value = both(x).chunk(2, -1)
            return mlp.act(gate) * value

        return gated
    raise InputError(f"backbone.architecture={architecture} has MLPs of an unknown kind, {type(mlp).__name__}")
