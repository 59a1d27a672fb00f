"""Resizing of maps against torch."""

import numpy as np
import pytest
import torch

from winclip_bench.metrics import resize_map


@pytest.mark.parametrize("shape", [(240, 240), (50, 31), (7, 5), (3, 2), (1, 1), (15, 900)])
@pytest.mark.parametrize("start", [(15, 15), (7, 5), (1, 4)])
def test_equals_torch(start, shape):
    values = np.random.default_rng(0).standard_normal(start)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], shape, mode="bilinear")[0, 0]
    assert resize_map(values, shape) == pytest.approx(wanted.numpy(), abs=1e-12)
    single = resize_map(values.astype(np.float32), shape)
    assert single.dtype == np.float32
    assert single == pytest.approx(wanted.numpy(), abs=1e-5)
