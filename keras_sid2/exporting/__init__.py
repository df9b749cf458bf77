"""One denoising step of a model as a program that runs without this library, and a runner that loops over it."""

from keras_sid2.exporting.folder import export_step
from keras_sid2.exporting.step import DenoisingStep

__all__ = ["DenoisingStep", "export_step"]
