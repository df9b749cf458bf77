"""Samples from a model: the request, checked; the compiled sampler; what is recorded of it."""

from keras_sid2.generation.finite import NonFiniteImages
from keras_sid2.generation.request import Drawing, generate, trajectory

__all__ = ["Drawing", "NonFiniteImages", "generate", "trajectory"]
