"""The few places where jax, tensorflow and torch differ; `parallel` and sharded checkpoints name a backend, too."""

# ruff: noqa: F401

from keras_sid2.backend.accumulation import accumulated, gradients_at
from keras_sid2.backend.compilation import compiled, recorded, tensors_stay_tensors
from keras_sid2.backend.ops import (
    affine,
    attention,
    constant,
    convolution,
    dropped,
    fused_group_norm,
    halved,
    halves_below,
    handed_out,
    held,
    layer_norm,
    loop,
    masked,
    modulated,
    products,
    rotated,
    unsigned_shift,
)
from keras_sid2.backend.platform import batch_shards, convolution_precision, device_kind, name
from keras_sid2.backend.recorded_blocks import fused, recorded_block
from keras_sid2.backend.state import (
    gathered,
    on_batch_shards,
    read_torch_file,
    replaced,
    step_value,
    steps_done,
    sync_variables,
    variables_survive,
)
from keras_sid2.backend.updates import adam_on_torch, add_to, clipped, dense, global_norm, update_averages
