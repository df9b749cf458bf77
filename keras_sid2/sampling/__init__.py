"""Samplers, the noise levels they step through, denoise functions, and the loop that runs them."""

from keras_sid2 import renamed
from keras_sid2.sampling.denoisers import (
    clipped,
    clipped_between,
    denoiser,
    guided,
    guided_in_one_batch,
    scale_between,
    thresholded,
)
from keras_sid2.sampling.loop import SamplingLoop, sample
from keras_sid2.sampling.noise_levels import (
    NOISE_LEVELS,
    edm_rho,
    get_noise_levels,
    logsnr_of,
    uniform_logsnr,
    uniform_t,
)
from keras_sid2.sampling.samplers import (
    SAMPLERS,
    DDIMSampler,
    DDPMSampler,
    DPMSolver2MSampler,
    EDMHeunSampler,
    HeunSampler,
    Sampler,
    evaluations,
    get_sampler,
)

__getattr__ = renamed.names(__name__, GRIDS="NOISE_LEVELS", get_grid="get_noise_levels")

__all__ = [
    "NOISE_LEVELS",
    "SAMPLERS",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolver2MSampler",
    "EDMHeunSampler",
    "HeunSampler",
    "Sampler",
    "SamplingLoop",
    "clipped",
    "clipped_between",
    "denoiser",
    "edm_rho",
    "evaluations",
    "get_noise_levels",
    "get_sampler",
    "guided",
    "guided_in_one_batch",
    "logsnr_of",
    "sample",
    "scale_between",
    "thresholded",
    "uniform_logsnr",
    "uniform_t",
]
