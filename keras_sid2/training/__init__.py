"""SiD2Model, its optimizer and what training needs around it."""

from keras_sid2 import renamed
from keras_sid2.generation.finite import NonFiniteImages
from keras_sid2.generation.request import SampleRequest
from keras_sid2.training.alternating import AlternatingAdam
from keras_sid2.training.distillation import MomentMatching, MomentMatchingModel
from keras_sid2.training.guards import CorruptBatch, ExplodedLoss, NonFiniteLoss, StopOnExplosion, StopOnNonFinite
from keras_sid2.training.optimizer import AdamRecipe, EmaAdam
from keras_sid2.training.preset import Preset, find_preset, list_presets, register_preset
from keras_sid2.training.preset_folder import list_trained
from keras_sid2.training.sid2_model import SiD2Model

__getattr__ = renamed.names(__name__, Drawing="SampleRequest", UnsoundBatch="CorruptBatch")

__all__ = [
    "AdamRecipe",
    "AlternatingAdam",
    "SampleRequest",
    "EmaAdam",
    "ExplodedLoss",
    "MomentMatching",
    "MomentMatchingModel",
    "NonFiniteImages",
    "NonFiniteLoss",
    "Preset",
    "SiD2Model",
    "StopOnExplosion",
    "StopOnNonFinite",
    "CorruptBatch",
    "find_preset",
    "list_presets",
    "list_trained",
    "register_preset",
]
