"""Linear layers as the encoder uses them: with the activation before or the residual after, in one step where possible.

On a CPU in bfloat16, oneDNN runs them faster on weights it has packed beforehand, with activation and residual fused.
torch has that only behind operators that are not public API; this module is the only one that touches them, tries
them once, and does without where they are missing or compute something else.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 2896  # what weights are packed for: one image of ViT-B-16-plus-240 with all its windows


class Linear:
    """activation(x @ weight.T + bias); weight [out, in], bias [out] or None."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> None:
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.activation = activation
        self._packed: Tensor | None = None
        self._fused = _fused_name(activation)
        on_cpu_in_half = weight.dtype == torch.bfloat16 and weight.device.type == "cpu"
        if on_cpu_in_half and self._fused is not None and packing_works():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, _ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """[R, in] -> [R, out]"""
        if self._packed is not None and self._fused is not None:
            name, algorithm = self._fused
            return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, name, [], algorithm)
        product = F.linear(x, self.weight, self.bias)
        return product if self.activation is None else _apply(self.activation, product)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual + this layer, for layers without an activation: [R, out], [R, in] -> [R, out]

        The residual may be overwritten: a product that adds to it in place needs no second tensor.
        """
        if self._packed is not None and residual.dtype == x.dtype:
            return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._packed, self.bias, "add")
        if residual.dtype != x.dtype:
            return residual + self(x)
        if self.bias is not None:
            residual += self.bias
        return residual.addmm_(x, self.weight.T)


def _apply(activation: nn.Module, x: Tensor) -> Tensor:
    """An activation, in place where torch can: the tensor is the largest there is, and a second one costs more than
    the arithmetic."""
    if isinstance(activation, nn.GELU):
        return torch.ops.aten.gelu_(x, approximate=activation.approximate)
    return activation(x)


def _fused_name(activation: nn.Module | None) -> tuple[str, str] | None:
    """What oneDNN calls an activation; None for one that it cannot fuse."""
    if activation is None:
        return "none", ""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate
    return None


@cache
def packing_works() -> bool:
    """Whether the installed torch has oneDNN's packed layers and they compute what they should."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(32, 64, generator=generator).bfloat16() for _ in range(2))
    bias, residual = (torch.randn(shape, generator=generator).bfloat16() for shape in ((32,), (32, 32)))
    product = F.linear(x.float(), weight.float(), bias.float())
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 32)
        activated = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu", [], "none")
        added = torch.ops.mkldnn._linear_pointwise.binary(x, residual, packed, bias, "add")
    except (RuntimeError, NotImplementedError, AttributeError):
        return False
    return all(
        torch.allclose(found.float(), expected, rtol=2e-2, atol=2e-2)
        for found, expected in ((activated, F.gelu(product)), (added, product + residual.float()))
    )
