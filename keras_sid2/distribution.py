"""Meshes of devices, and models on them: the public names of `keras_sid2.parallel`."""

from keras_sid2.parallel.mesh import *  # noqa: F403
