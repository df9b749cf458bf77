"""Samplers and the loop that runs them."""

from keras_sid2.sampling.loop import clipped, sample, uniform_t
from keras_sid2.sampling.steps import SAMPLERS, DDIMSampler, DDPMSampler, get_sampler

__all__ = ["SAMPLERS", "DDIMSampler", "DDPMSampler", "clipped", "get_sampler", "sample", "uniform_t"]
