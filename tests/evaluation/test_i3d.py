"""I3D against the same network written in plain PyTorch, with the same random weights."""

import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_sid2.evaluation import i3d, i3d_features
from keras_sid2.evaluation.i3d import LAYERS, as_input, i3d_network, read_i3d_weights, weight_shapes

torch = pytest.importorskip("torch", reason="the reference is PyTorch's")
CONVOLUTIONS = {"Conv3d_1a_7x7": 2, "Conv3d_2b_1x1": 1, "Conv3d_2c_3x3": 1}
POOLS = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}


@pytest.fixture(scope="module")
def weights():
    rng, found = np.random.default_rng(0), {}
    for name, shape in weight_shapes().items():
        if name.endswith("conv3d.weight"):
            found[name] = rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape).astype("float32")
        elif name.endswith(("bn.weight", "running_var")):
            found[name] = rng.uniform(0.5, 1.5, shape).astype("float32")
        else:
            found[name] = rng.normal(0.0, 0.1, shape).astype("float32")
    return found


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "i3d.npz"
    np.savez(path, **weights)
    return path


def clips(count, frames=9, side=32, channels=3):
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, frames, side, side, channels)).astype("uint8")


def padded(x, kernel, strides, value=0.0):
    """As TensorFlow's "same": what is left over goes behind."""
    pads = []
    for size, k, s in zip(x.shape[2:], kernel, strides, strict=True):
        missing = max(0, (-(-size // s) - 1) * s + k - size)
        pads.append((missing // 2, missing - missing // 2))
    return torch.nn.functional.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


class Reference:
    def __init__(self, weights):
        self.weights = {name: torch.from_numpy(array) for name, array in weights.items()}

    def convolution(self, name, x, stride=1):
        kernel = self.weights[f"{name}.conv3d.weight"]
        x = torch.nn.functional.conv3d(padded(x, kernel.shape[2:], (stride,) * 3), kernel, stride=stride)
        bn = [self.weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return torch.relu(torch.nn.functional.batch_norm(x, *bn, eps=1e-3))

    def pool(self, x, kernel, strides):
        return torch.nn.functional.max_pool3d(padded(x, kernel, strides, -torch.inf), kernel, strides)

    def mixed(self, name, x):
        second = self.convolution(f"{name}.b1b", self.convolution(f"{name}.b1a", x))
        third = self.convolution(f"{name}.b2b", self.convolution(f"{name}.b2a", x))
        pooled = self.convolution(f"{name}.b3b", self.pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.convolution(f"{name}.b0", x), second, third, pooled], dim=1)

    def __call__(self, x):
        """[B, F, 224, 224, 3] -> {layer: channels last}."""
        found, x = {}, torch.from_numpy(x).permute(0, 4, 1, 2, 3)
        for name in LAYERS[:-1]:
            if name in CONVOLUTIONS:
                x = self.convolution(name, x, CONVOLUTIONS[name])
            else:
                x = self.pool(x, *POOLS[name]) if name in POOLS else self.mixed(name, x)
            found[name] = x.permute(0, 2, 3, 4, 1).numpy()
        x = torch.nn.functional.avg_pool3d(x, (2, 7, 7), 1)
        logits = (self.weights["logits.conv3d.weight"], self.weights["logits.conv3d.bias"])
        found["logits"] = torch.nn.functional.conv3d(x, *logits).squeeze((3, 4)).mean(2).numpy()
        return found


def test_every_layer_is_that_of_pytorch(weights):
    x = to_numpy(as_input(clips(1, frames=16)))
    with torch.no_grad():
        expected = Reference(weights)(x)
    found = i3d_network(weights, LAYERS)(ops.convert_to_tensor(x))
    for layer in LAYERS:
        scale = expected[layer].std()
        np.testing.assert_allclose(to_numpy(found[layer]) / scale, expected[layer] / scale, atol=1e-4, err_msg=layer)
    assert expected["logits"].shape == (1, 400)


def test_frames_are_resized_between_pixels_and_scaled():
    clip = np.zeros((1, 9, 2, 2, 1), "uint8")
    clip[..., 1, :, :] = 255
    found = to_numpy(as_input(clip))
    assert found.shape == (1, 9, 224, 224, 3) and found.min() == -1.0 and found.max() == 1.0
    rows = found[0, 0, :, 0, 0]
    np.testing.assert_allclose(rows[:112], np.arange(112) / 112 * 2 - 1, atol=1e-5)
    np.testing.assert_array_equal(rows[112:], 1.0)


@pytest.mark.parametrize("height, width, size", [(40, 32, 16), (12, 17, 12), (5, 5, 16), (12, 16, 7)])
def test_the_square_in_the_middle_is_brought_to_the_size_of_the_protocol(height, width, size):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype("uint8")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(frames[:, top : top + side, left : left + side].astype("float32")).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(square, (size, size), mode="bilinear", align_corners=False)
    found = i3d._cut(frames, size)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=1e-3)
    if size == side:
        np.testing.assert_array_equal(found, frames[:, top : top + side, left : left + side])


def test_the_rule_names_the_size(file):
    clip = clips(1, side=40)
    as_they_are, usual = (i3d_features(file, size).rule for size in (None, i3d.MEASURED))
    assert usual == f"{i3d._CUT.format(64)}{as_they_are}" and "64 x 64" in usual
    halves = clip.reshape(1, 9, 20, 2, 20, 2, 3).astype("float32").mean((3, 5))
    np.testing.assert_allclose(i3d._cut(clip[0], 20), halves[0], atol=1e-3)


def test_features_do_not_depend_on_the_batch(file, monkeypatch):
    monkeypatch.setattr(i3d, "_AT_ONCE", 2)
    features, some = i3d_features(file), clips(3) // np.uint8([[[[[1]]]], [[[[2]]]], [[[[8]]]]])
    found, logits = features(some)
    assert found.shape == (3, 400) and logits is None
    np.testing.assert_allclose(features(some[2:])[0], found[2:], atol=1e-4 * found.std())
    assert np.ptp(found, axis=0).max() > 0.1 * found.std()
    assert features.name.startswith("i3d-kinetics400-") and features.name.endswith(features.digest[:8])


def test_clips_that_cannot_be_looked_at_are_refused(file):
    features = i3d_features(file)
    for wrong, sentence in (
        (clips(1, frames=8), "at least 9 frames, got 8"),
        (clips(1, channels=2), r"clips uint8 \[B, F, H, W, 1 or 3\], got uint8"),
        (clips(1)[:, 0], r"got uint8 \[1, 32, 32, 3\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            features(wrong)


def test_files_of_pytorch_are_read_and_others_refused(weights, file, tmp_path):
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    state["Mixed_3b.b0.bn.num_batches_tracked"] = torch.tensor(3)
    torch.save(state, tmp_path / "i3d.pt")
    found = read_i3d_weights(tmp_path / "i3d.pt")
    assert list(found) == list(weights) and all(np.array_equal(found[name], weights[name]) for name in found)
    lacking = {name: array for name, array in weights.items() if name != "logits.conv3d.bias"}
    np.savez(tmp_path / "lacking.npz", **lacking)
    np.savez(tmp_path / "more.npz", **weights, extra=np.zeros(3))
    (tmp_path / "damaged.npz").write_bytes(file.read_bytes()[:1000])
    for name, error, sentence in (
        ("lacking.npz", ValueError, r"I3D has 'logits.conv3d.bias' as \[400\], and .* has it as none"),
        ("more.npz", ValueError, r"I3D has 'extra' as none, and .* has it as \[3\]"),
        ("damaged.npz", ValueError, "is no .npz of plain arrays"),
        ("none.npz", FileNotFoundError, "no file of I3D weights"),
        ("i3d.h5", ValueError, "read from a .npz, .pt or .pth"),
    ):
        with pytest.raises(error, match=sentence):
            read_i3d_weights(tmp_path / name)
