"""SiD2, "Simpler Diffusion" (arXiv 2410.19324), in Keras 3: one code that trains and samples on jax, tensorflow, torch."""

from keras_sid2 import diffusion, layers, models, presets, sampling, training
from keras_sid2.diffusion import Guidance, SigmoidWeighting
from keras_sid2.models import Level, NetworkCost, ResidualUViT, network_cost
from keras_sid2.sampling import DDIMSampler, DDPMSampler
from keras_sid2.training import AdamRecipe, EmaAdam, SiD2Model, list_presets

__version__ = "0.1.0"

__all__ = [
    "AdamRecipe",
    "DDIMSampler",
    "DDPMSampler",
    "EmaAdam",
    "Guidance",
    "Level",
    "NetworkCost",
    "ResidualUViT",
    "SiD2Model",
    "SigmoidWeighting",
    "diffusion",
    "layers",
    "list_presets",
    "models",
    "network_cost",
    "presets",
    "sampling",
    "training",
]
