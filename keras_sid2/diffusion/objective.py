"""What training minimises: how a batch is corrupted, and the loss of each example."""

from collections.abc import Callable, Mapping

from keras import ops

from keras_sid2.config import settings
from keras_sid2.diffusion.gaussian import PREDICTIONS, alpha_sigma, convert, diffuse, velocity
from keras_sid2.diffusion.schedules import CosineInterpolatedSchedule
from keras_sid2.diffusion.weighting import SigmoidWeighting, loss_weight


@settings
class DiffusionObjective:
    """SiD2's loss, 2410.19324: with z_t = alpha_t x + sigma_t eps and v = alpha_t eps - sigma_t x,

        (1) loss = -1/2 dlogsnr/dt w(logsnr_t) sigma_t^2 mean((v - v_hat)^2),  t ~ U(0, 1), eps ~ N(0, I)

    The trainer draws t and eps and calls `corrupt`, then `losses`. An objective of your own has these two, and
    `schedule` and `prediction`, by which samples are drawn.

    Args:
        schedule: logsnr of t, see diffusion.schedules.
        weighting: w, see diffusion.weighting.
        prediction: what the network's output means: "v", as in the paper, "eps" or "x"; ValueError for another.
    """

    schedule: object
    weighting: object
    prediction: str = "v"

    def __post_init__(self):
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}.")

    @classmethod
    def for_image_shape(cls, shape, schedule=None, weighting=None, prediction: str = "v") -> "DiffusionObjective":
        """With the paper's schedule and weighting for samples of `shape` where None; ValueError where it has none."""
        schedule = CosineInterpolatedSchedule.for_image_shape(shape) if schedule is None else schedule
        return cls(schedule, SigmoidWeighting.for_image_shape(shape) if weighting is None else weighting, prediction)

    def corrupt(self, x, t, eps) -> dict:
        """What the network is asked, and what it should answer, of x float32 [B, ...], t [B] and eps like x.

        z_t and target (v) like x; logsnr and weight, which multiplies the mean squared error in v, float32 [B].
        """
        logsnr = self.schedule.logsnr(t)
        at = _, sigma = alpha_sigma(logsnr)
        weight = loss_weight(t, schedule=self.schedule, weighting=self.weighting, logsnr=logsnr)
        return {
            "logsnr": logsnr,
            "target": velocity(x=x, eps=eps, at=at),
            "weight": weight * ops.square(sigma),
            "z_t": diffuse(x=x, eps=eps, at=at),
        }

    def losses(self, predict: Callable[[Mapping], object], inputs: Mapping):
        """Eq. (1), float32 [B]; predict(inputs) is the network's output, inputs are `corrupt`'s and the conditions,
        and "unknown", 1 where samples are to be made and 0 where they are given, if a part is."""
        error = ops.square(ops.cast(self.velocity(predict(inputs), inputs), "float32") - inputs["target"])
        within = tuple(range(1, len(error.shape)))
        if "unknown" in inputs:  # the mean is over what is to be made
            error = error * inputs["unknown"] / ops.mean(inputs["unknown"], axis=within, keepdims=True)
        return inputs["weight"] * ops.mean(error, axis=within)

    def velocity(self, output, inputs: Mapping):
        """v_hat of the network's output at inputs' z_t and logsnr."""
        if self.prediction == "v":
            return output
        at = {"z_t": inputs["z_t"], "logsnr": inputs["logsnr"]}
        return convert(ops.cast(output, "float32"), self.prediction, "v", **at)
