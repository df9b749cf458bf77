"""Which backend and device this is, and how it rounds; the backends' modules, each imported when it is first used."""

import importlib

import keras


class _Module:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self._name), attribute)


jax, tf, torch = map(_Module, ("jax", "tensorflow", "torch"))


def name() -> str:
    """ "jax", "tensorflow" or "torch"."""
    return keras.backend.backend()


def jax_platform() -> str | None:
    """ "cpu", "gpu" or "tpu" on jax, None elsewhere."""
    return jax.devices()[0].platform if name() == "jax" else None


def device_kind() -> str:
    """The kind of the devices that training runs on, as the backend names it, "cpu" among others."""
    if name() == "jax":
        return jax.devices()[0].device_kind
    if name() == "torch":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"


def convolution_precision() -> str:
    """What accelerators may round float32 to in convolutions: "float32", "tf32", or jax's own word for it."""
    if name() == "jax":
        return jax.config.jax_default_matmul_precision or "default"
    if name() == "tensorflow":
        allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    else:
        newer = getattr(torch.backends.cudnn, "conv", None)  # of torch 2.9; it may not be mixed with the older flag
        allowed = torch.backends.cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32"
    return "tf32" if allowed else "float32"


def batch_shards() -> int:
    """Parts that keras's distribution splits a batch into, on jax; 1 without one."""
    distribution = keras.distribution.distribution() if name() == "jax" else None
    return 1 if distribution is None else distribution.num_model_replicas
