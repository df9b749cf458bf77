"""SiD2, "Simpler Diffusion" (arXiv 2410.19324), in Keras 3: one code for jax, tensorflow and torch."""

# ruff: noqa: E402
import sys

from keras_sid2.starting import program_of_ours, require_keras

if _program := program_of_ours():  # whose wrong flags are told before the seconds that Keras takes
    from keras_sid2.bin import command_line

    sys.argv[1:] = command_line.look(_program, sys.argv[1:])
require_keras()  # before the imports below do

from keras_sid2 import (
    conditions,
    diffusion,
    distribution,
    evaluation,
    layers,
    models,
    presets,
    renamed,
    sampling,
    training,
)
from keras_sid2.channels import Channels
from keras_sid2.diffusion import DiffusionObjective, Guidance, ScaleCurve, SigmoidWeighting
from keras_sid2.models import Level, NetworkCost, ResidualUViT, network_cost
from keras_sid2.parallel import processes
from keras_sid2.sampling import DDIMSampler, DDPMSampler, DPMSolver2MSampler, EDMHeunSampler, HeunSampler
from keras_sid2.training import (
    AdamRecipe,
    EmaAdam,
    MomentMatching,
    MomentMatchingModel,
    SampleRequest,
    SiD2Model,
    list_presets,
    list_trained,
)
from keras_sid2.version import __version__

__getattr__ = renamed.names(__name__, Drawing="SampleRequest")

__all__ = [
    "AdamRecipe",
    "Channels",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolver2MSampler",
    "DiffusionObjective",
    "SampleRequest",
    "EDMHeunSampler",
    "EmaAdam",
    "Guidance",
    "HeunSampler",
    "Level",
    "MomentMatching",
    "MomentMatchingModel",
    "NetworkCost",
    "ResidualUViT",
    "ScaleCurve",
    "SiD2Model",
    "SigmoidWeighting",
    "__version__",
    "conditions",
    "diffusion",
    "distribution",
    "evaluation",
    "layers",
    "list_presets",
    "list_trained",
    "models",
    "network_cost",
    "presets",
    "processes",
    "sampling",
    "training",
]
