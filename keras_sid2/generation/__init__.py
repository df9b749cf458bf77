"""Samples from a model: the request, checked; the compiled sampler; what is recorded of it."""

from keras_sid2 import renamed
from keras_sid2.generation.finite import NonFiniteImages
from keras_sid2.generation.request import SampleRequest, generate, trajectory

__getattr__ = renamed.names(__name__, Drawing="SampleRequest")

__all__ = ["SampleRequest", "NonFiniteImages", "generate", "trajectory"]
