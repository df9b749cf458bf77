"""Attention in bfloat16 on torch's CPU, where a gradient is wanted: not torch's kernel wherever something is faster."""

import itertools

import numpy as np
import pytest
from helpers import images, only_on_torch, to_numpy

from keras_sid2 import backend
from keras_sid2.backend import ops as places

pytestmark = only_on_torch

HOW = {"products": (True, 1024), "float32": (False, 1024), "torch's kernel": (True, 0)}
LENGTHS = {"few": (16, 16), "more": (64, 64), "of a text": (36, 17)}


def gradients(dtype, queries: int, keys: int, masked: bool) -> list[np.ndarray]:
    """The output of [2, N, 3, 16], and the gradients of its products with numbers."""
    import torch

    shapes = (queries, keys, keys, queries)
    *parts, given = (torch.tensor(images(2, n, 3, 16, seed=i)).to(dtype) for i, n in enumerate(shapes))
    parts = [part.requires_grad_() for part in parts]
    mask = torch.arange(keys)[None] < torch.tensor([[keys], [keys // 2]]) if masked else None
    found = backend.attention(*parts, mask)
    assert found.dtype == dtype
    return [to_numpy(t.detach().double()) for t in (found, *torch.autograd.grad(found, parts, given))]


@pytest.mark.parametrize(("how", "lengths", "masked"), itertools.product(HOW, LENGTHS, (False, True)))
def test_outputs_and_gradients_are_those_of_float64_within_bfloat16_s_rounding(monkeypatch, how, lengths, masked):
    import torch

    expected = gradients(torch.float64, *LENGTHS[lengths], masked)
    instructions, few = HOW[how]
    monkeypatch.setattr(places, "_bfloat16_on_cpu", lambda: instructions)
    monkeypatch.setattr(places, "_FEW_TOKENS", few)
    for a, b in zip(gradients(torch.bfloat16, *LENGTHS[lengths], masked), expected, strict=True):
        assert np.abs(a - b).max() < 0.03 * np.abs(b).max()
        assert np.sqrt(np.mean((a - b) ** 2)) < 0.01 * np.sqrt(np.mean(b**2))


def operations(learns: bool, tokens: int, dtype) -> set[str]:
    import torch

    parts = [torch.zeros((1, tokens, 1, 8), dtype=dtype, requires_grad=learns) for _ in range(3)]
    with torch.profiler.profile() as profiler:
        backend.attention(*parts)
    return {event.key for event in profiler.key_averages()}


def test_which_one_is_a_matter_of_gradient_length_and_dtype(monkeypatch):
    import torch

    monkeypatch.setattr(places, "_bfloat16_on_cpu", lambda: True)
    half, fused = torch.bfloat16, "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert fused not in operations(True, 1023, half)
    for case in ((False, 1023, half), (True, 1024, half), (True, 1023, torch.float32)):
        assert fused in operations(*case)
