"""What a training step on torch is made of, by a dispatch mode: operations, bytes, values between host and device.

The network has the ImageNet presets' depth and kinds of blocks, so their number of operations, and a thirty-second of
their width. Counted are operations that run a kernel: no views, and no tensors that are made and not yet written.
"""

import collections
import itertools

import keras
import numpy as np
import pytest
from helpers import only_on_torch, to_numpy

from keras_sid2 import AdamRecipe, Level, ResidualUViT, SiD2Model, SigmoidWeighting, backend
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.models.level import as_levels
from keras_sid2.training import find_preset

pytestmark = only_on_torch

_NO_KERNEL = {"_unsafe_view", "detach", "empty", "empty_like", "new_empty", "new_empty_strided", "lift_fresh"}
_HOST_READS = {"_local_scalar_dense", "is_nonzero", "equal"}


def counter():
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Counter(TorchDispatchMode):
        """How often each operation ran, and the bytes that it read and wrote."""

        def __init__(self):
            super().__init__()
            self.calls, self.bytes = collections.Counter(), collections.Counter()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            name = function._schema.name.removeprefix("aten::")
            if not function.is_view and name not in _NO_KERNEL:
                changed = [a for a, s in zip(args, function._schema.arguments, strict=False) if s.is_write]
                touched = tree_leaves((args, kwargs, changed if function._schema.is_mutable else result))
                self.calls[name] += 1
                self.bytes[name] += sum(t.nbytes for t in touched if isinstance(t, torch.Tensor))
            return result

    return Counter()


@pytest.fixture(scope="module")
def model():
    preset = find_preset("sid2_imagenet256_uvit2")
    network = {**preset.network, "image_shape": (32, 32, 3), "num_classes": 10, "embedding_dim": 32}
    levels = [{**level.get_config(), "channels": level.channels // 32} for level in as_levels(network["levels"])]
    network["levels"] = [{**level, "head_dim": None if level["kind"] == "res" else 4} for level in levels]
    model = SiD2Model(ResidualUViT(**network, dtype="mixed_bfloat16"), preset.schedule, preset.weighting)
    model.compile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_sid2.backend.ops._FEW_TOKENS", 0)  # attention in one operation, as on a GPU
        model.train_step(batch())  # records the blocks
    return model


def batch() -> dict:
    import torch

    return {"image": torch.zeros((1, 32, 32, 3), dtype=torch.uint8), "label": torch.zeros(1, dtype=torch.int32)}


@pytest.fixture(scope="module")
def step(model):
    with counter() as counted:
        model.train_step(batch())
    return counted


def test_no_value_travels_to_the_host(step):
    assert not _HOST_READS & set(step.calls)


def test_few_constants_travel_to_the_device(model, monkeypatch):
    """Keras makes tensors of numbers, which the host waits for: 20 of the learning rate, the metrics and checks of the
    data, where Threefry and dropout alone had 140."""
    import torch

    sent, as_tensor = [], torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda data, **k: sent.append(data) or as_tensor(data, **k))
    model.train_step(batch())
    assert sum(not torch.is_tensor(data) for data in sent) <= 24


def test_what_changes_all_weights_is_one_operation_each(model, step):
    weights = len(model.trainable_variables)
    assert weights > 500
    for name in ("_fused_adam_", "_fused_sgd_", "_foreach_norm", "_foreach_mul", "_foreach_mul_"):
        assert step.calls[name] == 1
    # norm, factor and zeros of a gradient 1 + 2 + 2, Adam 4 + 4, averages 2 + 1 and the gradient as the list to be
    # changed that it is in torch's declaration, all in the size of the weights
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables) * 4
    found = sum(step.bytes[name] for name in step.bytes if name.startswith(("_fused", "_foreach_mul", "_foreach_norm")))
    assert found == pytest.approx(17 * size, rel=0.01)


def test_a_step_has_half_of_the_operations(model, step):
    """Of the 6,007 that version 0.2 had; some 600 are dropout's masks, which torch.compile fuses. A
    block casts its weights in one operation, and their gradients in another, which come out as torch keeps them."""
    blocks = len(model.network.traced_blocks())
    assert step.calls["_foreach_copy_"] == 2 * blocks
    assert step.calls["clone"] <= 20
    assert step.calls["copy_"] <= 10
    assert sum(step.calls.values()) <= 6007 // 2


def test_the_fused_step_of_adam_is_keras_s(monkeypatch):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype("float32") for shape in ((3, 4), (5,), (2, 3, 3, 2))]
    gradients = [[rng.normal(size=v.shape[::-1]).astype("float32") for v in values] for _ in range(3)]

    def trained(fused: bool) -> list[np.ndarray]:
        optimizer, variables = AdamRecipe(learning_rate=0.01, warmup_steps=2).build(), list(map(keras.Variable, values))
        optimizer.build(variables)
        if not fused:
            monkeypatch.setattr(backend, "adam_on_torch", lambda *_, **__: False)
        for of_step in gradients:  # not contiguous, as convolutions have them
            optimizer.apply([keras.ops.transpose(keras.ops.convert_to_tensor(g)) for g in of_step], variables)
        return [to_numpy(v.value) for v in (*variables, *optimizer.variables)]

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


def test_frozen_weights_have_no_gradients_in_half_precision_either():
    products = {}
    for dtype, frozen in itertools.product(("float32", "mixed_bfloat16"), (False, True)):
        network = ResidualUViT((8, 8, 3), 1, None, 8, [Level("transformer", 8, 1, head_dim=8)], dtype=dtype)
        for layer in network._flatten_layers(include_self=False):
            layer.trainable = not frozen or layer.name not in ("mlp1", "mlp2")
        model = SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0))
        model.compile()
        with counter() as counted:
            model.train_on_batch({"image": np.zeros((1, 8, 8, 3), "uint8")})
        products[dtype, frozen] = counted.calls["mm"]
    for dtype in ("float32", "mixed_bfloat16"):  # two kernels of one block
        assert products[dtype, False] - products[dtype, True] == 2
