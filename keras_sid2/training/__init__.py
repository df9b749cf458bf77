"""SiD2Model, its optimizer and what training needs around it."""

from keras_sid2.generation.finite import NonFiniteImages
from keras_sid2.generation.request import Drawing
from keras_sid2.training.guards import ExplodedLoss, NonFiniteLoss, StopOnExplosion, StopOnNonFinite, UnsoundBatch
from keras_sid2.training.optimizer import AdamRecipe, EmaAdam
from keras_sid2.training.preset import Preset, find_preset, list_presets, register_preset
from keras_sid2.training.sid2_model import SiD2Model

__all__ = [
    "AdamRecipe",
    "Drawing",
    "EmaAdam",
    "ExplodedLoss",
    "NonFiniteImages",
    "NonFiniteLoss",
    "Preset",
    "SiD2Model",
    "StopOnExplosion",
    "StopOnNonFinite",
    "UnsoundBatch",
    "find_preset",
    "list_presets",
    "register_preset",
]
