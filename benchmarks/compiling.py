"""What the programs that compile and run nothing share: see keras_sid2/parallel/ahead.py. jax alone."""

import os

os.environ["KERAS_BACKEND"] = "jax"

from keras_sid2.parallel.ahead import Shapes, compiled_train_step, devices, shapes_on  # noqa: E402

__all__ = ["UNOPTIMIZED", "Shapes", "compiled_forward", "compiled_train_step", "devices", "shapes_on"]

UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled_forward(network, shapes: Shapes, batch_size: int, options: dict | None = None):
    """One evaluation of the network, as in sampling."""
    import jax

    def forward(weights, others, z_t, logsnr, label):
        return network.stateless_call(weights, others, (z_t, logsnr, label), training=False)[0]

    label = None if network.num_classes is None else shapes.array((batch_size,), "int32")
    inputs = shapes.array((batch_size, *network.image_shape), "float32"), shapes.array((batch_size,), "float32"), label
    values = ([v.value for v in group] for group in (network.trainable_variables, network.non_trainable_variables))
    traced = jax.jit(forward).trace(*values, *inputs)
    return traced.lower(lowering_platforms=(shapes.platform,)).compile(options)
