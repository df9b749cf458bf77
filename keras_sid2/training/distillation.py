"""Distillation by moment matching (Salimans et al., arXiv 2406.04103): a student that draws in k steps.

Student and auxiliary network begin as copies of the teacher, which is frozen, its guidance inside it. Of data x:

    s ~ U(0, 1), t = min(s + U(0, 1 / k), 1);  z_t = alpha_t x + sigma_t eps
    x~ = student(z_t);  z_s ~ q(z_s | z_t, x~), with the lower variance of diffusion.gaussian's Eq. (5)
    (1) even steps, the auxiliary network:  w(s) (|x~ - auxiliary(z_s)|^2 + |teacher(z_s) - auxiliary(z_s)|^2)
    (2) odd steps, the student:             w(s) <x~, auxiliary(z_s) - teacher(z_s)>
    (3) or, without an auxiliary network:   w(s) <x~, pull>, of parameter_matching.py, in every step

No gradient passes through z_s, x~ in (1), or the bracket's right half in (2). By (1) the auxiliary network follows
E_student[x~ | z_s]; (2) is at rest where that equals the teacher's E[x | z_s] at all s. Means are over the values of a
sample, w is the objective's weighting of squared errors in x.

Ours are `auxiliary_steps`, of (1) before each of (2), `own_levels` and `own_chain`. own_levels: t is the lowest of
1 / k, 2 / k, ..., 1 above s. A student's x~ is a function of z_t, and cannot be E[x | z_t] near t and spread as data
near 0. With all t in training the compromise is narrower than data; with t where the student draws it is nearer.
own_chain: z_t is of the student's own steps from noise, through which no gradient passes. A guided student draws
through other z_t than those of data, and comes to rest away from its teacher without (docs/guides/distillation.md).
"""

from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.conditions import call_network, expand, known_of
from keras_sid2.config import later, register, settings
from keras_sid2.diffusion import DiffusionObjective, Guidance, diffuse, guide, posterior, to_x
from keras_sid2.parallel import processes, replicas
from keras_sid2.shapes import whole_number
from keras_sid2.training.alternating import AlternatingAdam
from keras_sid2.training.averaged_model import parameters, step_momentum
from keras_sid2.training.data_checks import peek, unpack
from keras_sid2.training.frozen import freeze, frozen
from keras_sid2.training.optimizer import AdamRecipe
from keras_sid2.training.parameter_matching import pulls
from keras_sid2.training.sid2_model import SiD2Model, built

MATCHINGS = ("auxiliary", "parameters")
_OF_STUDENT = -1  # beside the examples' numbers, by which the same key makes seeds of dropout

# The paper's settings for ImageNet, as far as they are known; the rate falls to 0 there, see AdamRecipe's `decay`.
RECIPE = AdamRecipe(1e-5, warmup_steps=1000, beta_1=0.0, ema_decay=0.999, ema_warmup=True)


@settings
class MomentMatching(DiffusionObjective):
    """The objective of a `MomentMatchingModel`.

    Args:
        steps: k, which the student draws in, >= 1.
        guidance: the teacher's, a `Guidance` whose interval is in logsnr; None: none.
        matching: "auxiliary", Eqs. (1) and (2), or "parameters", Eq. (3).
        auxiliary_steps: of the auxiliary network before each of the student's, >= 1; the paper's is 1.
        own_levels: t only where the student draws; False is the paper's t.
        own_chain: z_t of the student's own steps from noise, without limits of x~, and not of data.

    Raises ValueError for others, for auxiliary_steps without an auxiliary network, and own_chain without own_levels.
    """

    steps: int = 8
    guidance: Guidance | None = None
    matching: str = later("auxiliary")
    auxiliary_steps: int = later(1)
    own_levels: bool = later(False)
    own_chain: bool = later(False)

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "steps", whole_number("The steps of a student", self.steps))
        if not isinstance(self.guidance, Guidance | None):
            raise ValueError(f"The teacher's guidance must be a Guidance, or None; got {self.guidance!r}.")
        if self.matching not in MATCHINGS:
            raise ValueError(f"matching must be {' or '.join(MATCHINGS)}, got {self.matching!r}.")
        object.__setattr__(self, "auxiliary_steps", whole_number("auxiliary_steps", self.auxiliary_steps))
        if self.auxiliary_steps > 1 and self.matching == "parameters":
            raise ValueError(f"auxiliary_steps={self.auxiliary_steps} needs matching='auxiliary'.")
        if self.own_chain and not self.own_levels:
            raise ValueError("own_chain needs own_levels: a student's chain has z_t at these levels alone.")

    def corrupt(self, x, t, eps) -> dict:
        """What `MomentMatchingModel` makes z_t and z_s of, under names of no conditions, which may be called x or t;
        logsnr and weight are those of s, which is the drawn t."""
        logsnr = self.schedule.logsnr(t)
        return {"moments/x": x, "moments/eps": eps, "moments/s": t, "logsnr": logsnr, "weight": self.weighting(logsnr)}


@register
class MomentMatchingModel(SiD2Model):
    """Trains a student of few steps by moment matching; `of_teacher` makes one.

    `network` is the student: it alone is averaged and drawn from. `teacher` is frozen; neither it nor `auxiliary` has
    dropout in training. Even steps train the auxiliary network, odd ones the student. The loss of a step of the student
    is shown as w(s) |auxiliary - teacher|^2, the squared distance between the moments, and so is that of `evaluate`;
    its gradient is that of Eq. (2). Parts that a condition tells of the sample are as it tells them.

    Where the objective matches "parameters", every step is the student's, on batches of an even size; its loss is
    w(s) <x~ - teacher, pull> / 2, whose mean estimates |nu|^2 / 4 and may be below 0, and that of `evaluate`
    w(s) |x~ - teacher|^2, which does not fall to 0.

    Args:
        network, teacher, auxiliary: networks of equal samples and conditions, with different names; auxiliary is None
            where the objective matches "parameters".
        objective: a `MomentMatching`.
        others: as `SiD2Model`'s; recipe None is RECIPE.

    Raises ValueError for networks that differ in that, another objective, and guidance without a condition; and for
    "parameters" with a teacher that computes in half precision, whose differences vanish in rounding, or microbatches,
    as its loss is one of two halves of a batch.
    """

    PARTS = (*SiD2Model.PARTS, "teacher", "auxiliary")

    def __init__(self, network, *, teacher, auxiliary=None, objective, recipe=None, name="moment_matching", **kwargs):
        if not isinstance(objective, MomentMatching):
            raise ValueError(f"A MomentMatchingModel needs a MomentMatching as objective, got {objective!r}.")
        super().__init__(network, objective=objective, recipe=recipe or RECIPE, name=name, **kwargs)
        if objective.guidance is not None and objective.guidance.acts and not self.conditions:
            raise ValueError("Guidance of a teacher needs conditions to be guided by, and this network has none.")
        if (auxiliary is None) != self.in_parameters:
            needed = "an auxiliary network" if auxiliary is None else "none"
            raise ValueError(f"matching={objective.matching!r} needs {needed} as `auxiliary`.")
        networks = [network, teacher, *([] if auxiliary is None else [auxiliary])]
        _, self.teacher, *others = (built(n, self.sample_shape, self.conditions) for n in networks)
        self.auxiliary = others[0] if others else None
        sizes = [[tuple(v.shape) for v in n.weights] for n in networks]
        if sizes[1:] != sizes[:-1] or len({n.name for n in networks}) < len(networks):
            raise ValueError("Student, teacher and auxiliary network must be copies of one network, of three names.")
        if self.in_parameters:
            _check_parameters(teacher, self.recipe)
        for value in (True, False):  # tensorflow passes over False for False, which files say of the outermost layer
            teacher.trainable = value

    @classmethod
    def of_teacher(
        cls,
        model: SiD2Model,
        steps: int,
        guidance=None,
        *,
        matching="auxiliary",
        auxiliary_steps=1,
        own_levels=False,
        own_chain=False,
        recipe=None,
        seed=0,
        use_ema=True,
        **changes,
    ):
        """A new one, not compiled, at step 0, of copies of the network of `model`, which stays as it is.

        Args:
            steps, guidance, matching, auxiliary_steps, own_levels, own_chain: `MomentMatching`'s.
            recipe, seed: `SiD2Model`'s.
            use_ema: the averages of `model`, if it has any, and not its weights.
            changes: of the networks' configuration, such as dtype="mixed_bfloat16" and remat=True.

        Raises ValueError where `model` is a student itself.
        """
        if model.student_steps is not None:
            raise ValueError(f"This teacher is a student of {model.student_steps} steps itself: distil its teacher.")
        parts = {name: getattr(model.objective, name) for name in ("schedule", "weighting", "prediction")}
        parts |= {"matching": matching, "auxiliary_steps": auxiliary_steps}
        parts |= {"own_levels": own_levels, "own_chain": own_chain}
        objective = MomentMatching(**parts, steps=steps, guidance=guidance)
        values = [value for _, value in model.network_values(use_ema=use_ema)]
        name = model.network.name
        names = {"network": name, "teacher": f"{name}_teacher"}
        names |= {"auxiliary": f"{name}_auxiliary"} if matching == "auxiliary" else {}
        networks = {part: _copy(model, name, values, changes) for part, name in names.items()}
        return cls(
            **networks,
            objective=objective,
            label_dropout=model.label_dropout,
            no_label=model.no_label,
            channels=model.channels,
            recipe=recipe,
            seed=seed,
        )

    student_steps = property(lambda self: self.objective.steps, lambda self, _: None)
    in_parameters = property(lambda self: self.objective.matching == "parameters")

    def student(self) -> SiD2Model:
        """The student by itself, a new SiD2Model with its averages and `step`, without teacher and auxiliary network;
        `student_steps` is k."""
        objective = DiffusionObjective(self.schedule, self.weighting, self.prediction)
        kept = ("label_dropout", "no_label", "recipe", "seed", "student_steps", "channels")
        same = {name: getattr(self, name) for name in kept}
        values = [value for _, value in self.network_values(use_ema=False)]
        new = SiD2Model(_copy(self, self.network.name, values), objective=objective, **same)
        if not self._has_averages:
            new.reset_averages()
            return new
        for mine, its in zip(new._all_averages(), self._all_averages(), strict=True):  # of frozen weights, too
            mine.assign(ops.copy(its.value))
        new.step.assign(ops.copy(self.step.value))
        return new

    def get_config(self):
        own = {} if self.auxiliary is None else {"frozen_auxiliary": frozen(self.auxiliary)}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        paths = config.pop("frozen_auxiliary", ())
        model = super().from_config(config, custom_objects)
        if model.auxiliary is not None:
            freeze(model.auxiliary, paths)
        return model

    # -- training ----------------------------------------------------------------------------------------------------

    def new_optimizer(self):
        if self.in_parameters:
            return super().new_optimizer()
        return self.recipe.build(AlternatingAdam, first=len(self.network.trainable_variables))

    def compile(self, optimizer=None, **kwargs):
        """SiD2Model's; with an auxiliary network ValueError for another optimizer than an AlternatingAdam, or one of
        another first group."""
        if self.in_parameters:
            return super().compile(optimizer, **kwargs)
        inner, count = getattr(optimizer, "inner_optimizer", optimizer), len(self.network.trainable_variables)
        if isinstance(inner, AlternatingAdam) and inner.first != count:
            raise ValueError(f"The student has {count} trainable variables, and AlternatingAdam first={inner.first}.")
        if not isinstance(inner, AlternatingAdam | None):
            name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
            advice = "leave it out, and give the recipe other settings, or take an AlternatingAdam"
            raise ValueError(f"Two networks are trained in turn, and {name} would move both at each step: {advice}.")
        super().compile(optimizer, **kwargs)

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """SiD2Model's; where the objective matches "parameters" ValueError for batches that replicas cannot halve."""
        x, first = peek(x, y) if self.in_parameters else (x, None)
        if first is not None:
            arrays, rows = isinstance(first, tuple) and first[0] is x, unpack(first)[0].shape[0]
            size = min(batch_size or 32, rows) if arrays else rows
            for count in (size, rows % size):
                _check_even(count, max(replicas.count() // processes.count(), 1))
        return super().fit(x, y, batch_size, *args, **kwargs)

    def corrupted(self, data, keys, dropout, first=None) -> dict:
        inputs = super().corrupted(data, keys, dropout, first)
        order, _ = replicas.rows(ops.shape(inputs["moments/s"])[0])
        order = order if first is None else order + ops.cast(first, "int32")
        ahead, noise = (threefry.fold_in(keys[3], _OF_STUDENT, i) for i in range(2))
        s, k = inputs["moments/s"], self.objective.steps
        if self.objective.own_levels:
            t = ops.minimum((ops.floor(s * k) + 1.0) / k, 1.0)
        else:
            t = ops.minimum(s + threefry.uniform(ahead, index=order) / k, 1.0)
        drawn = {"moments/t": t, "moments/noise": threefry.normal(noise, self.sample_shape, index=order)}
        if self.objective.own_chain:
            keys = threefry.fold_in(keys[3], _OF_STUDENT, 2 + ops.arange(k))
            drawn["moments/chain"] = threefry.normal(keys[None], self.sample_shape, index=order[:, None])
        return {**inputs, **drawn}

    def variables_of_step(self) -> list:
        networks = [self.network, self.teacher, *([] if self.auxiliary is None else [self.auxiliary])]
        return [self.step, *(v for part in networks for v in part.variables)]

    def _is_students(self, step):
        """Whether a step is the student's, and not the auxiliary network's."""
        return step % (self.objective.auxiliary_steps + 1) == self.objective.auxiliary_steps

    def _momentum(self, step):
        """Of the averages: m of the student's own steps, and 1 in the others but the first, which takes the weights."""
        if self.in_parameters:
            return super()._momentum(step)
        own = step_momentum(step // (self.objective.auxiliary_steps + 1), self.ema_decay, self.recipe.ema_warmup)
        return ops.where(self._is_students(step), own, ops.cast(step > 0, "float32"))

    def step_losses(self, inputs, training):
        x, given = self._drawn(inputs, training)
        held = ops.stop_gradient(x)
        if self.in_parameters:
            found = self._by_parameters(x, given) if training else ops.square(held - self._of_teacher(given))
        else:
            auxiliary = self._x_hat(call_network(self.auxiliary, given, training=False), given)
            teacher = ops.stop_gradient(self._of_teacher(given))
            apart = auxiliary - teacher
            of_auxiliary = ops.square(held - auxiliary) + ops.square(apart)  # Eq. (1)
            direction = x * ops.stop_gradient(apart)  # Eq. (2)
            of_student = ops.stop_gradient(ops.square(apart) - direction) + direction
            of_step = ops.where(self._is_students(self.step.value), of_student, of_auxiliary)
            found = of_step if training else ops.square(apart)
        return inputs["weight"] * ops.mean(found, axis=tuple(range(1, len(found.shape))))

    def _drawn(self, inputs, training):
        """x~ of the student, and what the others are given at z_s, through which no gradient passes."""
        logsnr_t, logsnr_s = self.schedule.logsnr(inputs["moments/t"]), inputs["logsnr"]
        if self.objective.own_chain:
            z_t = self._chain(inputs)
        else:
            z_t = diffuse(x=inputs["moments/x"], eps=inputs["moments/eps"], logsnr=logsnr_t)
        seed = inputs.get("example_seeds", inputs.get("seed"))
        given = {**inputs, "z_t": z_t, "logsnr": logsnr_t}
        x = self._x_hat(self._predict(given, training=training, seed=seed), given)
        z_s = _ahead(z_t, ops.stop_gradient(x), logsnr_t, logsnr_s, inputs["moments/noise"])
        return x, {**inputs, "z_t": z_s}

    def _chain(self, inputs):
        """z_t of the student's own steps from noise down to each example's t, as it draws but for limits of x~;
        a constant."""
        t, noises, k = inputs["moments/t"], inputs["moments/chain"], self.objective.steps
        levels = self.schedule.logsnr(1.0 - ops.arange(k, dtype="float32") / k)
        taken = ops.cast(ops.round(k - k * t), "int32")  # steps from noise to t

        def step(i, z_t):
            given = {**inputs, "z_t": z_t, "logsnr": ops.broadcast_to(levels[i], ops.shape(t))}
            x = backend.constant(lambda: self._x_hat(self._predict(given, training=False), given))
            z_s = _ahead(z_t, x, levels[i], levels[i + 1], ops.take(noises, i + 1, axis=1))
            return ops.where(expand(i < taken, z_t), z_s, z_t)

        return backend.loop(0, k - 1, step, noises[:, 0])

    def _by_parameters(self, x, given):
        """Eq. (3), float32 like x."""
        _check_even(x.shape[0])
        networks = parameters(self.teacher), self.teacher.variables
        pull, teacher = pulls(self._of_teacher, *networks, x=ops.stop_gradient(x), given=given, weight=given["weight"])
        direction = x * pull
        return ops.stop_gradient((x - teacher) * pull / 2.0 - direction) + direction

    def _x_hat(self, output, given):
        found = to_x(ops.cast(output, "float32"), self.prediction, z_t=given["z_t"], logsnr=given["logsnr"])
        for x, mask in known_of(self.conditions, given):
            found = ops.where(mask, x, found)
        return found

    def _of_teacher(self, given):
        """x_hat of the teacher with its guidance."""
        guidance = self.objective.guidance
        x_hat = self._x_hat(call_network(self.teacher, given, training=False), given)
        if guidance is None or not guidance.acts:
            return x_hat
        null = {n: ops.broadcast_to(self.conditions[n].null, ops.shape(given[n])) for n in self.guided_conditions}
        base = self._x_hat(call_network(self.teacher, {**given, **null}, training=False), given)
        scale = guidance.at(given["logsnr"])
        return guide(x_hat, base, ops.reshape(scale, (-1, *[1] * (len(x_hat.shape) - 1))))


def _ahead(z_t, x, logsnr_t, logsnr_s, noise):
    """z_s ~ q(z_s | z_t, x), with the lower variance."""
    mean, variance, _ = posterior(z_t=z_t, x_hat=x, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
    return mean + ops.sqrt(variance) * noise


def _check_even(count: int | None, parts: int = 1):
    """ValueError unless `count` examples can be shared among so many replicas, and each part be halved."""
    if count is not None and count % (2 * parts):
        size = "must be even" if parts == 1 else f"on {parts} replicas must be a multiple of {2 * parts}"
        raise ValueError(f"matching='parameters' halves each batch, so its size {size}, got {count}.")


def _check_parameters(teacher, recipe: AdamRecipe):
    """ValueError for what does not go with Eq. (3)."""
    half = next((layer.compute_dtype for layer in teacher._flatten_layers() if "16" in layer.compute_dtype), None)
    if half:
        advice = "leave dtype (--precision) out, or take matching='auxiliary'"
        raise ValueError(f"matching='parameters' needs a teacher that computes in float32, and got {half}: {advice}.")
    if (parts := recipe.accumulation_steps) > 1:
        raise ValueError(f"matching='parameters' needs whole batches: accumulation_steps must be 1, got {parts}.")


def _copy(model: SiD2Model, name: str, values, changes=()):
    """The network of `model` anew, of that name, with these values of its variables."""
    config = {**model.network.get_config(), **dict(changes), "name": name}
    new = built(type(model.network).from_config(config), model.sample_shape, model.conditions)
    for variable, value in zip(new.variables, values, strict=True):
        variable.assign(ops.copy(value))  # jax gives buffers away
    return new
