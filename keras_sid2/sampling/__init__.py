"""Samplers, the grids they step on, denoise functions, and the loop that runs them."""

from keras_sid2.sampling.denoisers import clipped, denoiser, guided, guided_in_one_batch, scale_between, thresholded
from keras_sid2.sampling.loop import SamplingLoop, sample
from keras_sid2.sampling.noise_levels import GRIDS, edm_rho, get_grid, logsnr_of, uniform_logsnr, uniform_t
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

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolver2MSampler",
    "EDMHeunSampler",
    "HeunSampler",
    "Sampler",
    "SamplingLoop",
    "clipped",
    "denoiser",
    "edm_rho",
    "evaluations",
    "get_grid",
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
