"""Callbacks that stop fit where the loss is lost: not finite, or finite and far above what it was."""

import math

import keras

from keras_sid2 import backend

_BLOCK = 20  # steps in a row whose mean is usual
_BINS = "loss_logsnr"  # how the names of the losses by noise level begin


class NonFiniteLoss(FloatingPointError):
    """The loss or the gradient of training step `step`, counted from 1, was NaN or infinite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class ExplodedLoss(NonFiniteLoss):
    """The loss of training step `step` was finite, but far above what it was: as lost as one that is not finite."""


class CorruptBatch(NonFiniteLoss, ValueError):
    """The batch of training step `step` had a label outside the classes, or a float image outside [-1, 1]."""


class _EachStep(keras.callbacks.Callback):
    """Looks at each step's values, one step late, until it stops fit: so no accelerator waits for the host.

    A subclass has _look(step, count, logs) -> NonFiniteLoss | None, for step `step`, counted from 1, which is the
    `count`-th of its epoch; `logs` are the means over the epoch so far.
    """

    _unread, _stopped, _step, _before_epoch = None, False, 0, 0

    def on_train_begin(self, logs=None):
        self._step, self._unread, self._stopped = backend.steps_done(self.model), None, False

    def on_epoch_begin(self, epoch, logs=None):
        self._before_epoch = self._step

    def on_train_batch_end(self, batch, logs=None):
        self._read()
        self._step = self._before_epoch + batch + 1
        self._unread = (self._step, batch + 1, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._read()

    def _read(self):
        if self._unread is None or self._stopped:
            return
        values, self._unread = self._unread, None
        if found := self._look(*values):
            self._stopped = self.model.stop_training = True
            self.model.non_finite = found


class StopOnNonFinite(_EachStep):
    """Stops fit at the first step whose loss or gradient norm is NaN or infinite; one step late, which does no harm,
    since `EmaAdam` applies no gradient that is not finite."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.model.non_finite = None

    def _look(self, step, count, logs):
        wrong = [name for name in ("loss", "gradient_norm") if not math.isfinite(logs.get(name, 0.0))]
        if not wrong:
            return None
        backend.sync_variables(self.model)
        if fault := self.model.data_faults.sentence(self.model.conditions, self.model.channels):
            what = f"loss is nan at training step {step}, as its batch is corrupt: {fault}"
            return CorruptBatch(f"{what} Training stopped, and has not learnt it.", step)
        bins = ", ".join(key for key in logs if key.startswith(_BINS) and not math.isfinite(logs[key]))
        what = f"{wrong[0]} is {float(logs[wrong[0]])} at training step {step}{' in ' * bool(bins)}{bins}"
        causes = "a learning rate that is too high, float16, images outside [-1, 1], labels outside the classes"
        return NonFiniteLoss(f"{what}: training stopped. Usual causes: {causes}.", step)

    def raise_if_stopped(self):
        """NonFiniteLoss, a FloatingPointError, with what happened, if this or another guard of the fit stopped it."""
        if self.model is not None and self.model.non_finite:
            raise self.model.non_finite


class StopOnExplosion(_EachStep):
    """Stops fit, which then raises ExplodedLoss, at a loss that is more than `factor` times what is usual.

    Our choice: usual is the lowest mean loss of 20 steps in a row that this callback has seen, so slow explosions do
    not carry it with them, and the first 20 steps cannot explode. One callback may serve several fits of a run; it
    begins anew where one begins at an earlier step than it has seen, since what was usual later is no measure there.

    Args:
        factor: > 1, else a ValueError. The loss of a batch varies by far less than 100: its noise levels cover all of
            them evenly.
    """

    def __init__(self, factor: float = 100.0):
        super().__init__()
        if not factor > 1.0:
            raise ValueError(f"The factor of an explosion must be above 1, got {factor!r}.")
        self.factor = factor
        self._forget()

    def _forget(self):
        self._block: list[float] = []
        self._usual = math.inf
        self._before: tuple[int, dict] = (0, {})  # steps of this epoch before the latest one, and the latest logs
        self._last_epoch: dict = {}

    def on_train_begin(self, logs=None):
        seen = self._step
        super().on_train_begin(logs)
        if self._step < seen:
            self._forget()

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._last_epoch, self._before = self._before[1] or self._last_epoch, (0, {})

    def _look(self, step, count, logs):
        loss = self._of_step("loss", count, logs)
        if not math.isfinite(loss):
            return None
        if loss > self.factor * self._usual:
            return self._explosion(step, count, logs, loss)
        self._before = (count, logs)
        self._block.append(loss)
        if len(self._block) == _BLOCK:
            self._usual = min(self._usual, sum(self._block) / _BLOCK)
            self._block.clear()
        return None

    def _of_step(self, name: str, count: int, logs: dict) -> float:
        """Of the steps since the latest look, as a rule one; about that of a bin, whose number of examples varies."""
        before, earlier = self._before
        sum_before = before * float(earlier[name]) if before else 0.0
        return (count * float(logs[name]) - sum_before) / (count - before)

    def _explosion(self, step: int, count: int, logs: dict, loss: float) -> ExplodedLoss:
        usual = {name: float(value) for name, value in (self._before[1] or self._last_epoch).items()}
        bins = {name: self._of_step(name, count, logs) for name in logs if name.startswith(_BINS)}
        growth = {name: value / max(usual.get(name, 0.0), 1e-30) for name, value in bins.items()}
        named = [name for name in bins if growth[name] >= min(self.factor, max(growth.values()))]
        told = ", ".join(f"{name} ({usual.get(name, 0.0):.3g} to {bins[name]:.3g})" for name in named)
        times = f"{loss / max(self._usual, 1e-30):.0f} times the {self._usual:.4g} that it was down to"
        what = f"loss is {loss:.4g} at training step {step}, {times}{' in ' * bool(told)}{told}"
        causes = "a learning rate that is too high, a corrupt batch"
        return ExplodedLoss(f"{what}: training stopped. Usual causes: {causes}.", step)
