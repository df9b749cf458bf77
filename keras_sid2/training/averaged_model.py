"""A Keras model that counts its training steps and averages the weights of its network.

    (1) average <- m average + (1 - m) weight  after each step,  m = 0 in the first one, then `decay`,
        or with a warm-up min(decay, (1 + n) / (10 + n)) in the step behind n others

and, where the recipe has `ema_widths`, power-function averages beside it (power_averages.py), which snapshots are of.
Count and averages are variables of the model, and not of its optimizer: another optimizer, a second compile() or frozen
layers lose nothing, and every file and every callback that keeps the weights keeps them. Averages are read where they
lie and never exchanged with the weights.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend
from keras_sid2.checkpoints import first_reason
from keras_sid2.conditions import call_network
from keras_sid2.parallel import replicas
from keras_sid2.training.power_averages import newest_share
from keras_sid2.training.snapshots import Reconstruction
from keras_sid2.training.weights_files import check_weights_file

_WARM_UP = 10.0  # Eq. (1); the average then reaches back over about a tenth of all steps


def parameters(network) -> list:
    """The variables of `network` that can be trained, whether they are frozen now or not, in Keras's order."""
    own = {id(v) for layer in network._flatten_layers() for v in layer._trainable_variables}
    return [v for v in network.variables if id(v) in own]


def step_momentum(step, decay: float, warm_up: bool):
    """m of Eq. (1), float32, for the step behind `step` others."""
    done = ops.cast(step, "float32")
    limit = ops.minimum(decay, (1.0 + done) / (_WARM_UP + done)) if warm_up else decay
    return limit * ops.cast(step > 0, "float32")


class AveragedModel(keras.Model):
    """A Keras model around one `network`, which keeps `step` and averages of the network's weights, as `recipe` says.

    `get_weights` gives the count, the averages and the weights, `set_weights` takes them, or the network's weights
    alone, which are the averages then, too. Whoever changes the weights otherwise calls `reset_averages()`.
    """

    def _keep_averages(self):
        """Makes the variables; the network has its weights."""
        self.ema_decay, self._chosen = self.recipe.ema_decay, False
        self._reads_averages = self._traced_with_averages = False
        self._missing: list[int] = []  # averages, those of widths last, that the file last loaded did not have
        self.reconstructed: str | None = None  # of which width and step the averages are, if not as training left them
        variable = functools.partial(keras.Variable, trainable=False, aggregation="only_first_replica")
        names = [(v, f"{v.path.replace('/', '_')}_average") for v in parameters(self.network)]
        with keras.name_scope(self.name):
            self.step = variable(0, dtype="int32", name="step")
            self._averages, *self._of_widths = (
                [
                    variable("zeros", v.shape, "float32", layout=getattr(v, "_layout", None), name=f"{name}{width}")
                    for v, name in names
                ]
                for width in ("", *(f"_width{i}" for i in range(len(self.recipe.ema_widths))))
            )

    def _pairs(self) -> list[tuple]:
        """(weight, average) of each; ValueError if the network has other weights than when the model was made."""
        found = parameters(self.network)
        if [tuple(v.shape) for v in found] != [tuple(a.shape) for a in self._averages]:
            advice = "(after enable_lora() or quantize(), say): make a new SiD2Model of the changed network"
            raise ValueError(f"The network's trainable weights are not those that the model was made with {advice}.")
        return list(zip(found, self._averages, strict=True))

    @property
    def width_averages(self) -> dict[float, list]:
        """The power-function averages: variables, in the order of `parameters`, by width."""
        return dict(zip(self.recipe.ema_widths, self._of_widths, strict=True))

    def _all_averages(self) -> list:
        """The single average, then those of all widths."""
        return sum(self._of_widths, [*self._averages])

    def _average_of(self) -> dict[int, keras.Variable]:
        """The average of each weight, by the weight's id."""
        return {id(weight): average for weight, average in self._pairs()}

    def _average_with(self, decay: float | None):
        """From now on with this decay; None is that of before, or no averages at all where there were none yet."""
        if decay is not None:
            self._complete()
            self.ema_decay = decay
        elif not self._chosen and not backend.steps_done(self):
            self.ema_decay = None
        self._chosen = True

    @property
    def _has_averages(self) -> bool:
        return self.ema_decay is not None and bool(backend.steps_done(self))

    def averages(self) -> list | None:
        """The averaged weights, variables in the order of the network's `trainable_variables`; None before the first
        step, and where the optimizer is no EmaAdam and none was before."""
        self._complete()
        if not self._has_averages:
            return None
        average_of = self._average_of()
        return [average_of[id(v)] for v in self.network.trainable_variables]

    def reset_averages(self):
        """The averages become the weights of now."""
        self._missing, self.reconstructed = list(range(len(self._all_averages()))), None
        self._complete()

    def reconstruct_average(self, snapshots, width: float, *, step: int | None = None):
        """The average of `width` at `step`, of a folder of snapshots (None: their newest), becomes the average that
        `generate` and `evaluate` read; the weights stay. Signatures name both. For models that are not trained on.

        Raises what `Reconstruction` raises, and ValueError for snapshots of another network, and where this model has
        done no step, and so has no weights of the run; then nothing is changed.
        """
        found, (weights, averages) = Reconstruction(snapshots, width, step=step), zip(*self._pairs(), strict=True)
        shapes = [tuple(v.shape) for v in weights]
        if (there := found.shapes()) != shapes:
            differs = f"{len(there)} weights, and this network has {len(shapes)}"
            differs = "weights of other shapes" if len(there) == len(shapes) else differs
            raise ValueError(f"The snapshots in {snapshots} are of another network: they have {differs}.")
        if not backend.steps_done(self):
            raise ValueError(f"This model has done no step: load a checkpoint of the run that wrote {snapshots}.")
        self._complete()
        for average, value in zip(averages, [*found], strict=True):  # all are read before one is changed
            average.assign(value)
        self._take_averages(True)
        self.reconstructed = f"{found.width:g} at step {found.step}"

    def _complete(self):
        """Averages that a file did not have are its weights, which keras loads after them; so are those of no decay."""
        backend.sync_variables(self)
        missing, count = self._missing, len(self._averages)
        if self.ema_decay is None:
            missing = {*range(count), *missing}
        pairs, averages = self._pairs() if missing else [], self._all_averages()
        for i in missing:
            averages[i].assign(ops.copy(pairs[i % count][0].value))
        self._missing = []

    # -- training ----------------------------------------------------------------------------------------------------

    def train_step(self, *args):
        """keras's own step of the backend, then Eq. (1); jax passes and returns its state explicitly."""
        result = super().train_step(*args)
        if len(args) == 1:
            self._count_step()
            return result
        logs, (trained, others, *rest) = result
        state = [*zip(self.trainable_variables, trained), *zip(self.non_trainable_variables, others)]  # noqa: B905
        with keras.StatelessScope(state) as scope:
            self._count_step()
        return logs, (trained, [scope.get_current_value(v) for v in self.non_trainable_variables], *rest)

    def _momentum(self, step):
        """m of Eq. (1), for the step behind `step` others."""
        return step_momentum(step, self.ema_decay, self.recipe.ema_warmup)

    def _count_step(self):
        if self.ema_decay is not None:
            momentum = self._momentum(self.step.value)
            weights, averages = zip(*self._pairs(), strict=True)
            backend.update_averages(averages, weights, momentum, assign=replicas.update)
        for width, averages in self.width_averages.items():
            share, weights = newest_share(self.step.value, width), [weight for weight, _ in self._pairs()]
            backend.update_averages(averages, weights, share=share, assign=replicas.update)
        replicas.update([self.step], [self.step.value + 1])

    # -- who reads them ----------------------------------------------------------------------------------------------

    def network_values(self, *, use_ema: bool = True) -> list[tuple]:
        """(variable, value) of all that the network reads: averages, if there are any and use_ema, or weights."""
        self._complete()
        return self._values(use_ema and self._has_averages)

    def _values(self, use_ema: bool) -> list[tuple]:
        average_of = self._average_of() if use_ema else {}
        return [(v, average_of.get(id(v), v).value) for v in self.network.variables]

    @contextlib.contextmanager
    def _reading(self, use_ema: bool) -> Iterator[None]:
        """Within it evaluate and predict read the averages, if there are any and use_ema, or the weights."""
        self._complete()
        use_ema = use_ema and self._has_averages
        if use_ema != self._traced_with_averages:
            self.test_function = self.predict_function = None
        self._traced_with_averages = use_ema
        before, self._reads_averages = self._reads_averages, use_ema
        try:
            yield
        finally:
            self._reads_averages = before

    def _predict(self, inputs, *, training=None, seed=None):
        """The network's output, from its averages where these are read."""
        averaged = self._reads_averages and not training
        with keras.StatelessScope(self._values(True)) if averaged else contextlib.nullcontext():
            return call_network(self.network, inputs, training=training, seed=seed)

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within it the network's weights are the averages, for whoever takes them from there; not to train or save."""
        self._complete()
        kept = [(v, ops.copy(v.value)) for v, _ in self._pairs()]
        try:
            for v, value in self.network_values():
                v.assign(value)
            yield
        finally:
            for v, value in kept:
                v.assign(value)

    def weights_digest(self, *, use_ema: bool = True) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the weights that `generate` draws from."""
        values = self.network_values(use_ema=use_ema)
        first = {id(v) for v in parameters(self.network)}
        digest = hashlib.sha256()
        for _, value in sorted(values, key=lambda pair: id(pair[0]) not in first):
            digest.update(np.ascontiguousarray(ops.convert_to_numpy(value)).tobytes())
        return digest.hexdigest()[:16]

    # -- weights in and out ------------------------------------------------------------------------------------------

    def set_weights(self, weights: Sequence):
        """keras's set_weights; of the network's weights alone, these are the averages from now on, too."""
        if len(weights) != len(self.network.weights) or len(weights) == len(self.weights):
            super().set_weights(weights)
            return self._take_averages(any(ops.any(ops.not_equal(a.value, w.value)) for w, a in self._pairs()))
        self.network.set_weights(weights)
        return self.reset_averages()

    def _take_averages(self, given: bool):
        """Averages that were given are used, also where an optimizer without any had made the model one without."""
        self.reconstructed = None
        if given and self.ema_decay is None:
            self.ema_decay = self.recipe.ema_decay

    def save_own_variables(self, store):
        """keras's hook: "step", and the averages, if there are any, by number, with the widths that they are of."""
        self._complete()
        store["step"] = self.step.numpy()
        first = 0 if self.ema_decay is not None else len(self._averages)
        for i, average in enumerate(self._all_averages()[first:], first):
            store[str(i)] = average.numpy()
        if self.recipe.ema_widths:
            store["ema_widths"] = np.asarray(self.recipe.ema_widths)

    def load_own_variables(self, store):
        """keras's hook. Files before version 0.2 hold both in the optimizer's variables; some files hold neither."""
        values = dict(store) if "step" in store.keys() else _of_optimizer(store, len(self._averages))
        self.step.assign(int(values.get("step", self.step.numpy())))
        averages = self._all_averages()
        found = [values.get(key) for key in self._keys(values.get("ema_widths", ()))]
        fits = [f is not None and f.shape == tuple(a.shape) for f, a in zip(found, averages, strict=True)]
        for average, value, fit in zip(averages, found, fits, strict=True):
            if fit:
                average.assign(value)
        self._missing = [i for i, there in enumerate(fits) if not there]
        self._take_averages(any(fits[: len(self._averages)]))

    def _keys(self, widths: Sequence[float]) -> list[str | None]:
        """Of all averages, what a file with those of `widths` calls them; None for those of a width that it lacks."""
        count, places = len(self._averages), {float(width): i for i, width in enumerate(widths, 1)}
        starts = [0, *(places.get(width) for width in self.recipe.ema_widths)]
        return [None if start is None else str(start * count + j) for start in starts for j in range(count)]

    def load_weights(self, filepath, **kwargs):
        """keras's load_weights, atomic: ValueError, and no weight changed, for those of another network.

        Averages and the count of steps are the file's, too; where it has no averages they are its weights.
        skip_mismatch=True loads what fits and leaves the rest as it is.
        """
        if not kwargs.get("skip_mismatch"):
            check_weights_file(filepath, self)
        variables = [*self.variables, *(self.optimizer.variables if self.compiled else ())]
        before = [ops.copy(v.value) for v in variables]
        try:
            super().load_weights(filepath, **kwargs)
        except ValueError as error:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            reason = first_reason(error)
            raise ValueError(f"{filepath} does not hold the weights of this model's network: {reason}") from error


def _of_optimizer(store, count: int) -> dict:
    """The count of steps and the averages, by number, as the optimizer had them before version 0.2: its variables were
    the counter, and of an EmaAdam perhaps a rate, `count` averages, two moments each, a gradient's norm."""
    file = getattr(store, "h5_file", {})
    found = file["optimizer/vars"] if "optimizer/vars" in file else {}
    first = len(found) - 3 * count - 1
    averages = {str(i): found[str(first + i)][()] for i in range(count)} if first in (1, 2) else {}
    return {**({"step": found["0"][()]} if "0" in found else {}), **averages}
