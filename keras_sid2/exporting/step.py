"""One step of denoising as two functions of tensors [B, ...], for any B:

    plain    {"z_t", "logsnr_t", "logsnr_s", NAME...}                                     -> {"x_hat", "z_s"}
    guided   the same and {"negative_NAME"..., "scale" [B], "interval" [B, 2] in logsnr}  -> {"x_hat", "z_s"}

NAME are the model's conditions, as networks get them. x_hat is what every sampler goes by: the estimate of the clean
sample, of images clipped to [-1, 1], with the parts that a condition tells as they are told. z_s is the deterministic
step to logsnr_s (DDIM), so that a client needs no formula. `guided` evaluates 2 B examples, leads away from the values
negative_NAME, and has scale 1 outside of the interval; `plain` costs half. Both have the same weights.
"""

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend
from keras_sid2.conditions import call_network, expand, known_of, null_like
from keras_sid2.diffusion import guide, to_x
from keras_sid2.sampling.samplers import flow

_NEGATIVE = "negative_"
_OWN = ("z_t", "logsnr_t", "logsnr_s", "scale", "interval")


class DenoisingStep:
    """The step of a SiD2Model in float32, of its averages if there are any and `use_ema`.

    `weights` are (name, float32 array) of all that the network reads; `functions` are the two above by name, without
    "guided" where there are no conditions, each called (weights as tensors in a list, inputs by name). ValueError for
    conditions whose names are no names of inputs.
    """

    def __init__(self, model, *, use_ema: bool = True):
        for name in model.conditions:
            if not name.isidentifier() or name in _OWN or name.startswith(_NEGATIVE):
                wanted = f"a word of letters, digits and _, none of {', '.join(_OWN)}, not beginning with {_NEGATIVE}"
                raise ValueError(
                    f"To be an input of an exported step a condition's name must be {wanted}; got {name!r}."
                )
        self.model, self._network = model, _in_float32(model)
        pairs = zip(self._network.variables, model.network_values(use_ema=use_ema), strict=True)
        found = [(v, values) for v, (_, values) in pairs if "float" in v.dtype]
        self._variables = [v for v, _ in found]
        self.weights = [(v.path, np.asarray(backend.gathered(values), "float32")) for v, values in found]
        self.functions = {"plain": self._with(self._plain)}
        if model.conditions:
            self.functions["guided"] = self._with(self._guided)

    def inputs(self, function: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """{name: (shape of one example, dtype)} of a function's inputs."""
        given = {name: (tuple(c.shape), c.dtype) for name, c in self.model.conditions.items()}
        level = ((), "float32")
        found = {"z_t": (self.model.sample_shape, "float32"), "logsnr_t": level, "logsnr_s": level, **given}
        if function == "guided":
            found |= {_NEGATIVE + name: kind for name, kind in given.items()}
            found |= {"scale": level, "interval": ((2,), "float32")}
        return found

    def _with(self, function):
        def run(weights, inputs):
            with keras.StatelessScope(list(zip(self._variables, weights, strict=True))):
                return function(inputs)

        return run

    def _plain(self, inputs):
        given = {name: inputs[name] for name in self.model.conditions}
        return self._finished(self._x_hat(inputs["z_t"], inputs["logsnr_t"], given), inputs)

    def _guided(self, inputs):
        z_t, logsnr_t, interval = inputs["z_t"], inputs["logsnr_t"], inputs["interval"]
        pairs = {name: (inputs[name], inputs[_NEGATIVE + name]) for name in self.model.conditions}
        pairs |= {"z_t": (z_t, z_t), "logsnr_t": (logsnr_t, logsnr_t)}
        both = {name: ops.concatenate(pair) for name, pair in pairs.items()}
        x_hat, count = self._x_hat(both.pop("z_t"), both.pop("logsnr_t"), both), ops.shape(z_t)[0]
        within = ops.logical_and(interval[:, 0] <= logsnr_t, logsnr_t <= interval[:, 1])
        scale = ops.where(within, inputs["scale"], ops.ones_like(logsnr_t))
        # Slices, for torch.export takes an equal split for one of a certain size.
        return self._finished(guide(x_hat[:count], x_hat[count:], expand(scale, z_t)), inputs)

    def _x_hat(self, z_t, logsnr_t, given: dict):
        output = call_network(self._network, {"z_t": z_t, "logsnr": logsnr_t, **given}, training=False)
        return to_x(ops.cast(output, "float32"), self.model.prediction, z_t=z_t, logsnr=logsnr_t)

    def _finished(self, x_hat, inputs) -> dict:
        if self.model.channels is None:
            x_hat = ops.clip(x_hat, -1.0, 1.0) + 0.0 * x_hat  # what is not finite stays so
        for x, mask in known_of(self.model.conditions, inputs):
            x_hat = ops.where(mask, x, x_hat)
        levels = {name: inputs[name] for name in ("logsnr_t", "logsnr_s")}
        return {"x_hat": x_hat, "z_s": flow(z_t=inputs["z_t"], x=x_hat, **levels)}


def _in_float32(model):
    """The model's network, or a copy without its weights that computes in float32 where it does not."""
    network = model.network
    if all(layer.compute_dtype == "float32" for layer in network._flatten_layers()):
        return network
    copied = type(network).from_config({**network.get_config(), "dtype": "float32"})
    if not copied.built:
        shape = model.sample_shape
        call_network(
            copied, {"z_t": ops.zeros((1, *shape)), "logsnr": ops.zeros((1,)), **null_like(model.conditions, 1)}
        )
    return copied
