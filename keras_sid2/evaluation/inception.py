"""The Inception-v3 of the Frechet inception distance (Heusel et al. 1706.08500), on every backend.

Its numbers are those of TensorFlow's graph of 2015-12-05 as torch-fidelity's "inception-v3-compat" and pytorch-fid run
it. Images are resized as TensorFlow 1 did: pixel x of the result is read at x * old / new, between the two pixels
there, without half-pixel centres or antialiasing; libraries of today differ, and the distance with them (Parmar et al.
2104.11222). This is done pixel by pixel, not as a matrix product, which accelerators round to 8 or 11 bits. Batch
normalization never learns here, so it is folded into the convolution before it. Convolutions run as the backend runs
those of float32, which may round what goes in: to TF32 on GPUs, to bfloat16 on TPUs.
"""

import os
import pathlib
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend
from keras_sid2.evaluation.features import Features
from keras_sid2.evaluation.inception_tables import BATCH_NORM, CLASSES, LAYERS, NETWORK, SIZE, Conv, Pool
from keras_sid2.evaluation.inception_weights import download_weights, read_weights, weights_digest

CACHE = "~/.cache/keras_sid2"
RULE = (
    f"grey repeated to three channels; TensorFlow 1's bilinear resize to {SIZE} x {SIZE} (no aligned corners, no "
    "half-pixel centres, no antialiasing), not rounded after it; (x - 128) / 128; float32"
)
_EPSILON = 1e-3  # of batch normalization
_AT_ONCE = 64  # images; their largest activation takes 350 MB
# Not what keras is set to elsewhere: these weights are of this layout and precision.
_FLOAT = {"dtype": "float32"}
_IMAGE = {"dtype": "float32", "data_format": "channels_last"}


def inception_features(
    weights: str | os.PathLike | None = None, *, layer: str = "2048", cache: str | os.PathLike | None = None
) -> Features:
    """The features of the Frechet inception distance, and the class logits of the inception score.

    Args:
        weights: a `.npz` of `write_weights` or the published `.pth`; None: downloaded.
        layer: "2048", or another of `LAYERS` ("64", "192", "768": means over an earlier layer; "logits").
        cache: folder for what is downloaded, made when needed; None: ~/.cache/keras_sid2.

    `extract` takes uint8 [B, H, W, 1 or 3] of any size and gives float32 ([B, D], [B, 1008] logits without bias, as
    torch-fidelity scores them). The name is "inception-v3-fid" for the published weights only, of others
    "inception-v3-custom-" and digits of their hash. ValueError for an unknown layer; for files as `inception_weights`.
    """
    if layer not in LAYERS:
        raise ValueError(f"Inception features are of one of the layers {', '.join(LAYERS)}, got {layer!r}.")
    arrays = read_weights(download_weights(cache or pathlib.Path(CACHE)) if weights is None else weights)
    network = Inception(arrays)

    def extract(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        results = network(images)
        return results[layer], results["logits_unbiased"]

    digest = weights_digest(arrays)
    name = "inception-v3-fid" if arrays.published else f"inception-v3-custom-{digest[:8]}"
    name = name if layer == "2048" else f"{name}-{layer}"
    return Features(name=name, digest=digest, rule=f"{RULE} {_where()}", extract=extract)


def _where() -> str:
    """How the device rounds what goes into a convolution. CPUs do not; backends are within 5e-6 of the spread there."""
    device = backend.device_kind()
    if device == "cpu":
        return "on cpu"
    return f"on {device}, by {backend.name()} with convolutions at precision {backend.convolution_precision()}"


class Inception:
    """The network with weights of `read_weights`: uint8 [B, H, W, 1 or 3] -> {layer: float32 [B, D]} for all `LAYERS`.

    It is compiled for one number of images, the most that came at once (64 at most); smaller rests are filled up to it.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]):
        network = inception_network(weights)
        self._values = [ops.convert_to_tensor(v.value) for v in network.variables]
        recorded = backend.recorded(network, network.variables)
        self._network = backend.compiled(recorded, network.variables, jit_compile=False)
        self._resize = backend.compiled(resize_like_tensorflow_1, [], jit_compile=False)
        self._at_once = 0

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """ValueError for images of another dtype or shape, or none."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
            found = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"Inception looks at images uint8 [B, H, W, 1 or 3], got {found}.")
        pieces = -(-len(images) // _AT_ONCE)
        self._at_once = max(self._at_once, -(-len(images) // pieces))
        results = [self._piece(images[i : i + self._at_once]) for i in range(0, len(images), self._at_once)]
        return {layer: np.concatenate([result[layer] for result in results]) for layer in LAYERS}

    def _piece(self, images: np.ndarray) -> dict[str, np.ndarray]:
        filled = np.pad(images, ((0, self._at_once - len(images)), (0, 0), (0, 0), (0, 0)))
        resized = self._resize([], ops.convert_to_tensor(filled))
        resized = ops.repeat(resized, 3, axis=-1) if images.shape[-1] == 1 else resized
        results = self._network(self._values, resized)
        return {layer: ops.convert_to_numpy(result)[: len(images)] for layer, result in results.items()}


def resize_like_tensorflow_1(images, size: int = SIZE):
    """[B, H, W, C] of any dtype -> float32 [B, size, size, C], as tf.compat.v1.image.resize_bilinear."""
    images = ops.cast(images, "float32")
    for axis in (2, 1):
        last = images.shape[axis] - 1
        where = np.arange(size, dtype="float32") * np.float32(images.shape[axis] / size)
        low = where.astype("int32")
        shape = [-1 if i == axis else 1 for i in range(4)]
        fraction = ops.convert_to_tensor((where - low.astype("float32")).reshape(shape), dtype="float32")
        below, above = (ops.take(images, np.minimum(i, last), axis=axis) for i in (low, low + 1))
        images = below + (above - below) * fraction
    return images


def inception_network(weights: Mapping[str, np.ndarray]) -> keras.Model:
    """float32 [B, 299, 299, 3] in [0, 255] -> {layer: float32 [B, D]} for all `LAYERS`."""
    images, results = keras.Input((SIZE, SIZE, 3), dtype="float32"), {}
    _through(NETWORK, keras.layers.Rescaling(1 / 128, offset=-1.0, **_FLOAT)(images), weights, results)
    dense = keras.layers.Dense(CLASSES, use_bias=False, kernel_initializer="zeros", name="fc", **_FLOAT)
    results["logits_unbiased"] = dense(results["2048"])
    dense.set_weights([weights["fc.weight"].T])
    results["logits"] = results["logits_unbiased"] + ops.convert_to_tensor(weights["fc.bias"])
    return keras.Model(images, results, name="inception")


def _through(path: tuple, x, weights: Mapping[str, np.ndarray], results: dict):
    """`x` after every step of `path`; `results` gets the layers that may be asked for."""
    for step in path:
        match step:
            case Conv():
                x = _convolution(step, x, weights)
            case Pool():
                x = _pool(step)(x)
            case list():
                x = keras.layers.Concatenate(axis=-1, **_FLOAT)([_through(p, x, weights, results) for p in step])
            case str():
                results[step] = keras.layers.GlobalAveragePooling2D(**_IMAGE)(x)
    return x


def _convolution(conv: Conv, x, weights: Mapping[str, np.ndarray]):
    """`x` after the convolution, with its batch normalization in kernel and bias, and ReLU."""
    layer = keras.layers.Conv2D(
        *conv[1:],
        activation="relu",
        kernel_initializer="zeros",  # never used, and cheaper to compile than random ones
        name=conv.name.replace(".", "_"),  # torch allows no dots
        **_IMAGE,
    )
    result = layer(x)
    gain, bias, mean, variance = (weights[f"{conv.name}.bn.{part}"].astype("float64") for part in BATCH_NORM)
    scale = gain / np.sqrt(variance + _EPSILON)
    kernel = weights[f"{conv.name}.conv.weight"].transpose(2, 3, 1, 0) * scale
    layer.set_weights([kernel.astype("float32"), (bias - mean * scale).astype("float32")])
    return result


def _pool(pool: Pool) -> keras.layers.Layer:
    kind = {"mean": keras.layers.AveragePooling2D, "max": keras.layers.MaxPooling2D}[pool.kind]
    return kind(3, pool.stride, pool.padding, **_IMAGE)
