"""Fused and packed layers compute what the plain ones do, and are done without where they are missing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from winclip_bench.clip import linear as module
from winclip_bench.clip.allocator import keep_freed_memory
from winclip_bench.clip.linear import Linear


def _parts(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((50, 24), (16, 24), (16,), (50, 16))
    x, weight, bias, residual = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return x, weight, bias, residual


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, nn.GELU(), nn.GELU("tanh"), nn.SiLU()])
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_layer_is_what_it_says(
    monkeypatch: pytest.MonkeyPatch, packing: bool, dtype: torch.dtype, activation: nn.Module | None, with_bias: bool
) -> None:
    if not packing:
        monkeypatch.setattr(module, "packing_works", lambda: False)
    x, weight, bias, residual = _parts(dtype)
    offset = bias if with_bias else None
    product = F.linear(x.float(), weight.float(), None if offset is None else offset.float())
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 2e-2}
    with torch.inference_mode():
        found = Linear(weight, offset, activation)(x)
        added = Linear(weight, offset).add_to(residual.clone(), x)
    assert found.dtype == added.dtype == dtype
    torch.testing.assert_close(found.float(), product if activation is None else activation(product), **tolerance)
    torch.testing.assert_close(added.float(), product + residual.float(), **tolerance)


def test_torch_without_the_operators_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    module.packing_works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Missing(), raising=False)
    assert module.packing_works() is False
    monkeypatch.undo()
    module.packing_works.cache_clear()


def test_setting_the_allocator_never_fails() -> None:
    assert isinstance(keep_freed_memory(), bool)
