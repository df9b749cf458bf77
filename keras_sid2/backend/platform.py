"""Which backend and device this is, and how it rounds."""

import keras


def name() -> str:
    """ "jax", "tensorflow" or "torch"."""
    return keras.backend.backend()


def jax_platform() -> str | None:
    """ "cpu", "gpu" or "tpu" on jax, None elsewhere."""
    if name() != "jax":
        return None
    import jax

    return jax.devices()[0].platform


def device_kind() -> str:
    """The kind of the devices that training runs on, as the backend names it, "cpu" among others."""
    if name() == "jax":
        import jax

        return jax.devices()[0].device_kind
    if name() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"


def convolution_precision() -> str:
    """What accelerators may round float32 to in convolutions: "float32", "tf32", or jax's own word for it."""
    if name() == "jax":
        import jax

        return jax.config.jax_default_matmul_precision or "default"
    if name() == "torch":
        import torch

        newer = getattr(torch.backends.cudnn, "conv", None)  # of torch 2.9; it may not be mixed with the older flag
        allowed = torch.backends.cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32"
    else:
        import tensorflow as tf

        allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    return "tf32" if allowed else "float32"


def batch_shards() -> int:
    """Parts that keras's distribution splits a batch into, on jax; 1 without one."""
    distribution = keras.distribution.distribution() if name() == "jax" else None
    return 1 if distribution is None else distribution.num_model_replicas
