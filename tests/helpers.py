"""Plain functions that several tests share. Formulas here are float64 numpy, written from the equations."""

import contextlib
import os
import socket

import keras
import numpy as np
import pytest
from keras import ops

from keras_sid2 import ResidualUViT, backend, threefry

BACKEND = keras.backend.backend()
only_on_jax = pytest.mark.skipif(BACKEND != "jax", reason="jax's own functions")
only_on_torch = pytest.mark.skipif(BACKEND != "torch", reason="torch's own functions")


def to_numpy(x) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(x))


def is_adapted(whitening) -> bool:
    """Whether a TokenWhitening does anything."""
    matrix = to_numpy(whitening.matrix)
    return not np.array_equal(matrix, np.eye(len(matrix)))


def run(function, *tensors) -> np.ndarray:
    """function(*tensors) as numpy; one program on jax, where hundreds of small ones are slow to compile."""
    tensors = [ops.convert_to_tensor(t) for t in tensors]
    if BACKEND == "jax":
        return to_numpy(backend.compiled(function, [], jit_compile=True)([], *tensors))
    return to_numpy(function(*tensors))


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x, "float64")))


def alpha_sigma_of(logsnr):
    """float64 (alpha, sigma) with alpha^2 / sigma^2 = exp(logsnr) and alpha^2 + sigma^2 = 1."""
    return np.sqrt(sigmoid(logsnr)), np.sqrt(sigmoid(-np.asarray(logsnr, "float64")))


def keys(count: int, seed: int = 0):
    """int32 [count, 2]: one key an example."""
    return threefry.fold_in(threefry.key(seed), np.arange(count, dtype="int32"))


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """float32 noise of `shape`, from numpy's frozen generator: golden numbers stand on it."""
    return np.random.RandomState(seed).normal(size=shape).astype("float32")


def randomize(layer, seed: int = 0):
    """Gives every weight of `layer` its own numbers, the same in every run and none zero; returns `layer`."""
    rng = np.random.RandomState(seed)
    for weight in sorted(layer.weights, key=lambda weight: weight.path):
        scale = np.prod(weight.shape[:-1]) ** -0.5 if len(weight.shape) > 1 else 0.3
        weight.assign((weight.name == "gamma") + scale * rng.normal(size=weight.shape))
    return layer


LEVELS = (
    {"kind": "res", "channels": 4, "blocks": 1},
    {"kind": "transformer", "channels": 8, "blocks": 1, "head_dim": 4},
)


RES, TRANSFORMER = LEVELS

# Changes of `tiny_network`: few sizes of weights among them, for jax compiles an initializer for each.
NETWORKS = {
    "wide": dict(image_shape=(4, 12, 1)),
    "tall, colour": dict(image_shape=(12, 4, 3), patch_size=2),
    "four channels, large patches": dict(image_shape=(16, 8, 4), patch_size=4),
    "one level": dict(levels=[RES]),
    "one level of attention": dict(levels=[{"kind": "transformer", "channels": 8, "blocks": 2}]),
    "four levels": dict(image_shape=(8, 16, 3), levels=[RES, TRANSFORMER, RES, TRANSFORMER]),
    "no classes": dict(num_classes=None),
}


def tiny_network(**changes) -> ResidualUViT:
    """A network of both kinds of blocks for 4 x 4 grey images of 3 classes."""
    settings = dict(image_shape=(4, 4, 1), patch_size=1, num_classes=3, embedding_dim=8, levels=LEVELS)
    return ResidualUViT(**{**settings, **changes})


def network_inputs(network, batch: int = 2, seed: int = 0):
    """(z_t, logsnr, label) for `network`."""
    labels = None if network.num_classes is None else np.arange(batch, dtype="int32") % network.num_classes
    logsnr = np.linspace(-6.0, 6.0, batch, dtype="float32")
    return images(batch, *network.image_shape, seed=seed), logsnr, labels


def gaussian_x_hat(z_t, logsnr, mu: float, s: float):
    """E[x | z_t] for pixels x ~ N(mu, s^2): the denoiser that is exact on such data."""
    alpha2, sigma2 = ops.sigmoid(logsnr), ops.sigmoid(-logsnr)
    gain = ops.sqrt(alpha2) * s**2 / (alpha2 * s**2 + sigma2)
    gain, alpha = (ops.reshape(c, (-1, *[1] * (len(z_t.shape) - 1))) for c in (gain, ops.sqrt(alpha2)))
    return mu + gain * (z_t - alpha * mu)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on, below those that systems give to clients.

    Workers of pytest look in places of their own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 10
    for first in np.random.default_rng().permutation(np.arange(10_000 + 2000 * worker, 12_000 + 2000 * worker - count)):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", int(port)))
            return int(first)
    raise OSError(f"No {count} free ports.")
