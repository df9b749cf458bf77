"""Schedules, weightings, conversions and guidance: pure functions and frozen dataclasses on keras.ops."""

from keras_sid2.diffusion.gaussian import (
    PREDICTIONS,
    alpha_sigma,
    convert,
    diffuse,
    from_x,
    posterior,
    to_x,
    velocity,
)
from keras_sid2.diffusion.guidance import Guidance, ScaleCurve, guide
from keras_sid2.diffusion.objective import DiffusionObjective
from keras_sid2.diffusion.schedules import CosineInterpolatedSchedule, CosineSchedule, ShiftedCosineSchedule
from keras_sid2.diffusion.weighting import (
    ConstantEpsWeighting,
    ConstantVWeighting,
    ConstantXWeighting,
    EDMMonotonicWeighting,
    EDMWeighting,
    SigmoidWeighting,
    loss_weight,
)

__all__ = [
    "PREDICTIONS",
    "ConstantEpsWeighting",
    "ConstantVWeighting",
    "ConstantXWeighting",
    "CosineInterpolatedSchedule",
    "CosineSchedule",
    "DiffusionObjective",
    "EDMMonotonicWeighting",
    "EDMWeighting",
    "Guidance",
    "ScaleCurve",
    "ShiftedCosineSchedule",
    "SigmoidWeighting",
    "alpha_sigma",
    "convert",
    "diffuse",
    "from_x",
    "guide",
    "loss_weight",
    "posterior",
    "to_x",
    "velocity",
]
