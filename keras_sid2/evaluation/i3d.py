"""The I3D of the Frechet video distance (Carreira and Zisserman 1705.07750; Unterthiner et al. 1812.01717).

The distance is `frechet_distance` of these features, the 400 logits of Kinetics-400, averaged over time. Frames are
cut to the square in their middle and brought to 64 x 64, the size of the protocol (MAGVIT 2212.05199, appendix B.3),
then enlarged as TensorFlow 1 did, which is what the published distances were measured with. No weights come with this
library and none are downloaded: give a file of yours, and its hash is part of the features' name. Names of arrays are
those of the commonest port to PyTorch ("Mixed_3b.b1a.conv3d.weight", "logits.conv3d.bias"). Convolutions pad as
TensorFlow's "same"; batch normalization is folded into the convolution before it.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend
from keras_sid2.evaluation.features import Features
from keras_sid2.evaluation.inception import resize_like_tensorflow_1
from keras_sid2.evaluation.inception_tables import BATCH_NORM
from keras_sid2.evaluation.inception_weights import read_arrays, weights_digest

SIZE, CLASSES = 224, 400
MEASURED = 64  # pixels along one side, of the protocol
FEWEST_FRAMES = 9  # that leave the two positions in time that the last average is over
_CUT = "the square in the middle, bilinear to {0} x {0} (half-pixel centres, no antialiasing), not rounded; "
_RULE = (
    f"grey repeated to three channels; TensorFlow 1's bilinear resize to {SIZE} x {SIZE} (no aligned corners, no "
    "half-pixel centres, no antialiasing), not rounded after it; 2 x / 255 - 1; logits, averaged over time; float32"
)
_EPSILON = 1e-3
_AT_ONCE = 4  # clips
_VIDEO = {"dtype": "float32", "data_format": "channels_last"}

# (name, filters, kernel, strides) of convolutions, (name, kernel, strides) of maximum pools, (name, six widths) of
# mixed blocks: 1x1; 1x1, 3x3; 1x1, 3x3; pool, 1x1.
_STEM = (
    ("Conv3d_1a_7x7", 64, 7, 2),
    ("MaxPool3d_2a_3x3", (1, 3, 3), (1, 2, 2)),
    ("Conv3d_2b_1x1", 64, 1, 1),
    ("Conv3d_2c_3x3", 192, 3, 1),
    ("MaxPool3d_3a_3x3", (1, 3, 3), (1, 2, 2)),
    ("Mixed_3b", (64, 96, 128, 16, 32, 32)),
    ("Mixed_3c", (128, 128, 192, 32, 96, 64)),
    ("MaxPool3d_4a_3x3", (3, 3, 3), (2, 2, 2)),
    ("Mixed_4b", (192, 96, 208, 16, 48, 64)),
    ("Mixed_4c", (160, 112, 224, 24, 64, 64)),
    ("Mixed_4d", (128, 128, 256, 24, 64, 64)),
    ("Mixed_4e", (112, 144, 288, 32, 64, 64)),
    ("Mixed_4f", (256, 160, 320, 32, 128, 128)),
    ("MaxPool3d_5a_2x2", (2, 2, 2), (2, 2, 2)),
    ("Mixed_5b", (256, 160, 320, 32, 128, 128)),
    ("Mixed_5c", (384, 192, 384, 48, 128, 128)),
)
LAYERS = (*(step[0] for step in _STEM), "logits")


def i3d_features(weights: str | os.PathLike, size: int | None = MEASURED) -> Features:
    """The features of the Frechet video distance, of the file `weights`, see `read_i3d_weights`.

    `extract` takes clips uint8 [B, F, H, W, 1 or 3] of any size, of at least 9 frames, and gives float32 [B, 400]. The
    square in the middle of each frame is first brought to `size` x `size` pixels; None: frames are taken as they are.
    ValueError for other clips, and for files as `read_i3d_weights`.
    """
    arrays = read_i3d_weights(weights)
    network = i3d_network(arrays)
    values = [ops.convert_to_tensor(v.value) for v in network.variables]
    run = backend.compiled(backend.recorded(network, network.variables), network.variables, jit_compile=False)

    def of(clips: np.ndarray) -> np.ndarray:
        filled = np.pad(clips, [(0, _AT_ONCE - len(clips)), *[(0, 0)] * 4])
        return ops.convert_to_numpy(run(values, as_input(filled, size))["logits"])[: len(clips)]

    def extract(clips: np.ndarray) -> np.ndarray:
        _check_clips(clips)
        return np.concatenate([of(clips[i : i + _AT_ONCE]) for i in range(0, len(clips), _AT_ONCE)])

    digest = weights_digest(arrays)
    rule = _RULE if size is None else _CUT.format(size) + _RULE
    return Features(name=f"i3d-kinetics400-{digest[:8]}", digest=digest, rule=rule, extract=extract)


def _check_clips(clips: np.ndarray):
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[-1] not in (1, 3) or 0 in clips.shape:
        found = f"{clips.dtype} {list(clips.shape)}"
        raise ValueError(f"I3D looks at clips uint8 [B, F, H, W, 1 or 3], got {found}.")
    if clips.shape[1] < FEWEST_FRAMES:
        raise ValueError(f"I3D looks at clips of at least {FEWEST_FRAMES} frames, got {clips.shape[1]}.")


def as_input(clips: np.ndarray, size: int | None = None):
    """uint8 [B, F, H, W, 1 or 3] -> float32 [B, F, 224, 224, 3] in [-1, 1], by way of `size` x `size`."""
    frames = clips.reshape(-1, *clips.shape[2:])
    frames = ops.convert_to_tensor(frames if size is None else _cut(frames, size))
    resized = resize_like_tensorflow_1(frames, SIZE) * (2.0 / 255.0) - 1.0
    resized = ops.repeat(resized, 3, axis=-1) if clips.shape[-1] == 1 else resized
    return ops.reshape(resized, (*clips.shape[:2], SIZE, SIZE, 3))


def _cut(frames: np.ndarray, size: int) -> np.ndarray:
    """The squares in the middle of uint8 [N, H, W, C], bilinear to float32 [N, size, size, C]."""
    _, height, width, _ = frames.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frames = frames[:, top : top + side, left : left + side].astype("float32")
    where = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.minimum(where.astype(int), max(side - 2, 0))
    for axis in (1, 2):
        part = (where - low).astype("float32").reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = (np.take(frames, np.minimum(i, side - 1), axis) for i in (low, low + 1))
        frames = below + (above - below) * part
    return frames


def read_i3d_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a .npz, or of a .pt or .pth of a PyTorch state (read without unpickling code), by their names.

    Raises FileNotFoundError; ValueError for another suffix, a damaged file, and other arrays than `weight_shapes`;
    ImportError for PyTorch's where it is not installed.
    """
    path, shapes = pathlib.Path(path), weight_shapes()
    if path.suffix not in (".npz", ".pt", ".pth"):
        raise ValueError(f"I3D weights are read from a .npz, .pt or .pth, got {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of I3D weights at {str(path)!r}.")
    arrays = read_arrays(path) if path.suffix == ".npz" else backend.read_torch_file(path)
    arrays = {name: array for name, array in arrays.items() if not name.endswith(".num_batches_tracked")}
    for name in [*shapes, *arrays]:
        found, wanted = getattr(arrays.get(name), "shape", None), shapes.get(name)
        if found != wanted:
            what = f"{name!r} as {'none' if wanted is None else list(wanted)}"
            raise ValueError(f"I3D has {what}, and {path} has it as {'none' if found is None else list(found)}.")
    return {name: np.asarray(arrays[name], "float32") for name in shapes}


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Of all arrays, by name, as PyTorch has them: kernels [out, in, time, height, width]."""
    shapes, width = {}, 3
    for name, *rest in _STEM:
        if name.startswith("Conv3d"):
            filters, kernel, _ = rest
            shapes |= _shapes_of(name, width, filters, kernel)
            width = filters
        elif name.startswith("Mixed"):
            ends = _branches(rest[0])
            for branch in ends:
                inner = width
                for part, filters, kernel in branch:
                    shapes |= _shapes_of(f"{name}.{part}", inner, filters, kernel)
                    inner = filters
            width = sum(branch[-1][1] for branch in ends)
    return {**shapes, "logits.conv3d.weight": (CLASSES, width, 1, 1, 1), "logits.conv3d.bias": (CLASSES,)}


def _shapes_of(name: str, given: int, filters: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}.conv3d.weight": (filters, given, kernel, kernel, kernel),
        **{f"{name}.bn.{part}": (filters,) for part in BATCH_NORM},
    }


def _branches(widths: Sequence[int]) -> list[list[tuple[str, int, int]]]:
    """The convolutions (name, filters, kernel) of a mixed block's four branches; the last one begins with a pool."""
    a, b, c, d, e, f = widths
    return [[("b0", a, 1)], [("b1a", b, 1), ("b1b", c, 3)], [("b2a", d, 1), ("b2b", e, 3)], [("b3b", f, 1)]]


def i3d_network(weights: Mapping[str, np.ndarray], layers: Sequence[str] = ("logits",)) -> keras.Model:
    """float32 [B, F, 224, 224, 3] in [-1, 1] -> {layer: float32} for some `LAYERS`; "logits" are [B, 400]."""
    clips, results = keras.Input((None, SIZE, SIZE, 3), dtype="float32"), {}
    x = clips
    for name, *rest in _STEM:
        if name.startswith("Conv3d"):
            x = _convolution(name, x, weights, rest[0], rest[1], rest[2])
        elif name.startswith("MaxPool3d"):
            x = keras.layers.MaxPooling3D(*rest, padding="same", name=name, **_VIDEO)(x)
        else:
            x = _mixed(name, x, weights, rest[0])
        results[name] = x
    x = keras.layers.AveragePooling3D((2, 7, 7), 1, padding="valid", name="average", **_VIDEO)(x)
    logits = keras.layers.Conv3D(CLASSES, 1, kernel_initializer="zeros", name="logits", **_VIDEO)
    x = logits(x)
    logits.set_weights([_kernel(weights["logits.conv3d.weight"]), weights["logits.conv3d.bias"]])
    results["logits"] = keras.layers.GlobalAveragePooling3D(name="over_time", **_VIDEO)(x)
    return keras.Model(clips, {layer: results[layer] for layer in layers}, name="i3d")


def _mixed(name: str, x, weights: Mapping[str, np.ndarray], widths: Sequence[int]):
    found = []
    for branch in _branches(widths):
        y = x
        if branch[0][0] == "b3b":
            y = keras.layers.MaxPooling3D(3, 1, padding="same", name=f"{name}_pool", **_VIDEO)(y)
        for part, filters, kernel in branch:
            y = _convolution(f"{name}.{part}", y, weights, filters, kernel, 1)
        found.append(y)
    return keras.layers.Concatenate(axis=-1, dtype="float32", name=name)(found)


def _convolution(name: str, x, weights: Mapping[str, np.ndarray], filters: int, kernel: int, strides: int):
    """`x` after a convolution, with its batch normalization in kernel and bias, and ReLU."""
    layer = keras.layers.Conv3D(
        filters,
        kernel,
        strides,
        padding="same",
        activation="relu",
        kernel_initializer="zeros",
        name=name.replace(".", "_"),  # torch allows no dots
        **_VIDEO,
    )
    result = layer(x)
    gain, bias, mean, variance = (weights[f"{name}.bn.{part}"].astype("float64") for part in BATCH_NORM)
    scale = gain / np.sqrt(variance + _EPSILON)
    folded = _kernel(weights[f"{name}.conv3d.weight"]) * scale
    layer.set_weights([folded.astype("float32"), (bias - mean * scale).astype("float32")])
    return result


def _kernel(values: np.ndarray) -> np.ndarray:
    """[out, in, time, height, width] as Keras has it."""
    return values.transpose(2, 3, 4, 1, 0)
