"""keras_sid2/training/distillation.py: gradients against formulas of another source, and that a student matches."""

import importlib.util
import itertools
import pathlib
import types
import warnings

import keras
import numpy as np
import pytest
from helpers import BACKEND, alpha_sigma_of, only_on_torch, sigmoid, to_numpy
from keras import ops

from keras_sid2 import AdamRecipe, DDPMSampler, Guidance, Level, ResidualUViT, SampleRequest, SiD2Model, backend
from keras_sid2.conditions import ClassLabel, Image, Vector
from keras_sid2.diffusion import CosineSchedule, SigmoidWeighting
from keras_sid2.training import AlternatingAdam, EmaAdam, MomentMatchingModel, distillation, parameter_matching

K, LABELS = 3, 2
PARTS = {"schedule": CosineSchedule(logsnr_min=-8.0, logsnr_max=8.0), "weighting": SigmoidWeighting(0.5)}
GUIDANCE = Guidance(1.7, (-3.0, 2.0))
# Of the networks: (a, b) of v_hat = a z + b[label]; labels 0, 1, and 2 for none.
WEIGHTS = {
    "network": (0.8, [0.1, -0.2, 0.05]),
    "teacher": (0.5, [0.3, -0.4, 0.1]),
    "auxiliary": (0.6, [-0.1, 0.2, 0.0]),
}


@keras.saving.register_keras_serializable(package="test_distillation")
class Linear(keras.Model):
    """v_hat = a z_t + b[label], of one pixel."""

    sample_shape, num_classes = (1, 1, 1), LABELS

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a = self.add_weight(shape=(), name="a")
        self.b = self.add_weight(shape=(LABELS + 1,), name="b")

    def call(self, inputs, training=None):
        z_t, _, label = inputs
        return self.a * z_t + ops.reshape(ops.take(self.b, label), (-1, 1, 1, 1))


WAYS = {  # to train a student: options of MomentMatching
    "auxiliary": {},
    "parameters": {"matching": "parameters"},
    "own chain": {"own_levels": True, "own_chain": True},
}


def linear_model(module=distillation, way="auxiliary"):
    objective = module.MomentMatching(**PARTS, steps=K, guidance=GUIDANCE, **WAYS[way])
    networks = {part: Linear(name=part) for part in WEIGHTS if (part, way) != ("auxiliary", "parameters")}
    model = module.MomentMatchingModel(**networks, objective=objective, label_dropout=0.2)
    for part, network in networks.items():
        network.set_weights([np.array(v, "float32") for v in WEIGHTS[part]])
    return model


def gradients(model, step: int, batch: dict):
    """(inputs, losses, gradients) of a training step, of the student's a and b and the auxiliary network's."""
    model.step.assign(step)
    inputs = model.corrupted(batch, model._step_keys(0, step), model._dropout)
    trained = [*model.network.weights, *([] if model.auxiliary is None else model.auxiliary.weights)]
    reads = model.variables_of_step()
    losses, found = backend.accumulated(lambda i: model.step_losses(inputs, True), reads, trained, 1)
    inputs = {name: to_numpy(values).astype("float64") for name, values in inputs.items()}
    return inputs, to_numpy(losses)[0], [to_numpy(g) for g in found]


def ahead(z_t, x_hat, t: tuple, s: tuple, noise):
    """z_s, drawn from the product of two Gaussians in z_s; levels are (logsnr, alpha, sigma)."""
    (_, alpha_t, sigma_t), (_, alpha_s, sigma_s) = t, s
    ratio = alpha_t / alpha_s
    added = sigma_t**2 - (ratio * sigma_s) ** 2  # variance of z_t given z_s, whose mean is ratio z_s
    precision = ratio**2 / added + 1 / sigma_s**2
    return (ratio * z_t / added + alpha_s * x_hat / sigma_s**2) / precision + noise / np.sqrt(precision)


def expected(inputs: dict, step: int, way: str):
    """The same by hand, float64."""
    label, x, noise = inputs["label"].astype(int), *(inputs[f"moments/{name}"].ravel() for name in ("x", "noise"))

    def at(time):
        logsnr = to_numpy(PARTS["schedule"].logsnr(ops.convert_to_tensor(time.astype("float32")))).astype("float64")
        return (logsnr, *alpha_sigma_of(logsnr))

    def x_hat_of(part, z, alpha, sigma, label):
        a, b = WEIGHTS[part]
        return alpha * z - sigma * (a * z + np.array(b)[label])

    at_t, at_s = at(inputs["moments/t"]), at(inputs["moments/s"])
    (_, alpha_t, sigma_t), (logsnr_s, alpha_s, sigma_s) = at_t, at_s
    z_t = alpha_t * x + sigma_t * inputs["moments/eps"].ravel()
    if way == "own chain":
        noises = inputs["moments/chain"].reshape(-1, K).T
        levels = [at(np.full(x.shape, j / K)) for j in range(K, 0, -1)]
        z_of = [noises[0]]
        for i in range(K - 1):
            x_hat = x_hat_of("network", z_of[i], *levels[i][1:], label)
            z_of.append(ahead(z_of[i], x_hat, levels[i], levels[i + 1], noises[i + 1]))
        z_t = np.array(z_of)[K - np.round(inputs["moments/t"] * K).astype(int), np.arange(len(x))]
    x_hat = x_hat_of("network", z_t, alpha_t, sigma_t, label)
    z_s = ahead(z_t, x_hat, at_t, at_s, noise)
    teacher, none = (x_hat_of("teacher", z_s, alpha_s, sigma_s, given) for given in (label, LABELS))
    acts = (logsnr_s >= GUIDANCE.interval[0]) & (logsnr_s <= GUIDANCE.interval[1])
    teacher = np.where(acts, none + GUIDANCE.scale * (teacher - none), teacher)
    auxiliary = x_hat_of("auxiliary", z_s, alpha_s, sigma_s, label)
    w = np.exp(0.5) * sigmoid(logsnr_s - 0.5)
    if way == "parameters":  # the derivative of the guided teacher by a and b, [B, 4]
        scale = np.where(acts, GUIDANCE.scale, 1.0)[:, None]
        labels, none = np.eye(LABELS + 1)[label], np.eye(LABELS + 1)[LABELS]
        slopes = -sigma_s[:, None] * np.concatenate([z_s[:, None], none + scale * (labels - none)], axis=1)
        of_each = -2 * (w * (x_hat - teacher))[:, None] * slopes  # gradients of w (x_hat - teacher)^2
        other = [of_each[1::2].mean(axis=0), of_each[::2].mean(axis=0)]  # of the half that an example is not in
        pull = -(slopes * np.stack([other[i % 2] for i in range(len(w))])).sum(axis=1)
        slope = w * pull
        own = [-(slope * sigma_t * z_t).sum(), -np.eye(LABELS + 1)[label].T @ (slope * sigma_t)]
        return 0.5 * slope * (x_hat - teacher), own
    if step % 2:
        slope, sigma, z = w * (auxiliary - teacher), sigma_t, z_t
        losses = w * (auxiliary - teacher) ** 2
    else:
        slope, sigma, z = 2 * w * (2 * auxiliary - x_hat - teacher), sigma_s, z_s
        losses = w * ((x_hat - auxiliary) ** 2 + (teacher - auxiliary) ** 2)
    own = [-(slope * sigma * z).sum(), -np.eye(LABELS + 1)[label].T @ (slope * sigma)]
    still = [np.zeros(()), np.zeros(LABELS + 1)]
    return losses, [*own, *still] if step % 2 else [*still, *own]


def batch_of(count: int) -> dict:
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (count, 1, 1, 1)).astype("float32")
    return {"image": image, "label": rng.integers(0, LABELS, count).astype("int32")}


def differences(module=distillation, way="auxiliary") -> float:
    """The largest of losses and gradients, relative to the gradient's size, of an even and an odd step."""
    found = 0.0
    for step in (4, 5):
        inputs, *ours = gradients(linear_model(module, way), step, batch_of(256))
        assert (inputs["moments/t"] == np.minimum(inputs["moments/t"], 1.0)).all() and 0.9 / K < (
            inputs["moments/t"] - inputs["moments/s"]
        ).max()
        theirs = expected(inputs, step, way)
        size = max(np.abs(g).max() for g in theirs[1])
        pairs = [(ours[0], theirs[0]), *zip(ours[1], theirs[1], strict=True)]
        found = max(
            found,
            (inputs["moments/t"] - inputs["moments/s"]).max() - 1 / K,
            *(np.abs(a - b).max() / size for a, b in pairs),
        )
    return found


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_the_losses_are_those_by_hand(way):
    assert differences(way=way) < 1e-3


MUTANTS = {
    "wrong sign": ("direction = x * ops.stop_gradient(apart)", "direction = x * ops.stop_gradient(-apart)"),
    "gradient through z_s": ("_ahead(z_t, ops.stop_gradient(x), logsnr_t", "_ahead(z_t, x, logsnr_t"),
    "gradient through the bracket": ("direction = x * ops.stop_gradient(apart)", "direction = x * apart"),
    "the upper variance": ("mean, variance, _ = posterior", "mean, _, variance = posterior"),
    "swapped roles": ("(self.step.value), of_student, of_auxiliary)", "(self.step.value), of_auxiliary, of_student)"),
    "auxiliary and teacher swapped": ("call_network(self.auxiliary, given", "call_network(self.teacher, given"),
    "one half of Eq. (1)": ("ops.square(held - auxiliary) + ops.square(apart)", "ops.square(held - auxiliary)"),
    "no guidance": ("if guidance is None or not guidance.acts:", "if True:"),
    "the level of t": ('"logsnr": logsnr_t}', '"logsnr": logsnr_s}'),
    "steps twice as long": ("index=order) / k, 1.0)", "index=order) * 2 / k, 1.0)"),
}


OF_PARAMETERS = {  # in distillation.py or parameter_matching.py
    "wrong sign": ("ops.stop_gradient(-j_nu)", "ops.stop_gradient(j_nu)"),
    "gradient through the pull": (
        "return ops.stop_gradient((x - teacher) * pull / 2.0 - direction) + direction",
        "return (x - teacher) * pull / 2.0",
    ),
    "the upper variance": ("mean, variance, _ = posterior", "mean, _, variance = posterior"),
    "each half against its own": ("nus[1 - i], halves[i]", "nus[i], halves[i]"),
    "one half's weights": ('"moments/weight": weight}', '"moments/weight": ops.ones_like(weight)}'),
    "one evaluation of two": ("(moved[0] - moved[1])", "(moved[0] - teacher(half))"),
    "no guidance": ("if guidance is None or not guidance.acts:", "if True:"),
}


OF_CHAIN = {
    "z_t of data": ("if self.objective.own_chain:\n            z_t", "if False:\n            z_t"),
    "gradient through the chain": (
        "x = backend.constant(lambda: self._x_hat(self._predict(given, training=False), given))",
        "x = self._x_hat(self._predict(given, training=False), given)",
    ),
    "a step too many": ("expand(i < taken", "expand(i <= taken"),
    "a step too few": ("backend.loop(0, k - 1", "backend.loop(0, k - 2"),
    "the same noise twice": ("ops.take(noises, i + 1", "ops.take(noises, i"),
    "the level of s": ("ops.broadcast_to(levels[i], ops", "ops.broadcast_to(levels[i + 1], ops"),
    "the teacher's chain": ("self._predict(given, training=False)", "call_network(self.teacher, given)"),
    "the upper variance": ("mean, variance, _ = posterior", "mean, _, variance = posterior"),
}
CHANGES = dict(zip(WAYS, (MUTANTS, OF_PARAMETERS, OF_CHAIN), strict=True))


def mutant(before: str, after: str):
    """distillation.py, or what it takes of parameter_matching.py, with another text in one place."""
    found, registered = types.ModuleType("mutant"), dict(keras.saving.get_custom_objects())
    sources = [pathlib.Path(module.__file__).read_text() for module in (distillation, parameter_matching)]
    assert [source.count(before) for source in sources] in ([1, 0], [0, 1])
    own, other = (compile(source.replace(before, after), "mutant", "exec") for source in sources)
    exec(own, found.__dict__)
    keras.saving.get_custom_objects().update(registered)
    of_parameters = types.ModuleType("of_parameters")
    exec(other, of_parameters.__dict__)
    found.pulls = of_parameters.pulls
    return found


@pytest.mark.skipif(BACKEND != "torch", reason="a mutant is of all backends alike; torch compiles nothing")
@pytest.mark.parametrize(("way", "name"), [(way, name) for way, changes in CHANGES.items() for name in changes])
def test_mutants_are_found(way, name):
    assert differences(mutant(*CHANGES[way][name]), way) > 1e-2


@only_on_torch
def test_steps_of_the_chain_keep_nothing_for_a_gradient(monkeypatch):
    import torch

    model, call, found = linear_model(way="own chain"), Linear.call, []

    def watched(self, *given, **others):
        if self.name == "network":
            found.append(torch.is_grad_enabled())
        return call(self, *given, **others)

    monkeypatch.setattr(Linear, "call", watched)
    gradients(model, 5, batch_of(4))
    assert found == [False] * (K - 1) + [True]


# -- the optimizer ---------------------------------------------------------------------------------------------------


def test_a_group_whose_gradient_is_zero_keeps_weights_and_moments_and_the_other_has_its_own_steps():
    rng, zero = np.random.default_rng(0), np.zeros(3, "float32")
    weights = [keras.Variable(np.ones(3, "float32"), name=name) for name in "ab"]
    alone = [keras.Variable(np.ones(3, "float32"), name=name) for name in "cd"]
    options = {"learning_rate": 0.1, "beta_1": 0.5, "global_clipnorm": None}
    both, each = AlternatingAdam(first=1, **options), [EmaAdam(**options) for _ in alone]
    both.build(weights)
    for optimizer, variable in zip(each, alone, strict=True):
        optimizer.build([variable])
    for group in (1, 0, 1, 1, 0, 1):
        gradient = rng.normal(size=3).astype("float32")
        grads = [gradient if i == group else zero for i in range(2)]
        before = [to_numpy(v) + 0 for v in (weights[1 - group], *both.variables)]
        both.apply([ops.convert_to_tensor(g) for g in grads])
        each[group].apply([ops.convert_to_tensor(gradient)])
        after = [to_numpy(v) for v in (weights[1 - group], *both.variables)]
        names = ["weight", *(v.name for v in both.variables)]
        kept = [n for n, a, b in zip(names, before, after, strict=True) if np.array_equal(a, b)]
        assert {"weight", f"{'ab'[1 - group]}_momentum", f"{'ab'[1 - group]}_velocity"} <= set(kept)
        for ours, theirs in zip(weights, alone, strict=True):
            np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), rtol=1e-5)
    for bad in (np.nan, np.inf):
        before = [to_numpy(w) + 0 for w in weights]
        both.apply([ops.convert_to_tensor(np.full(3, bad, "float32")), ops.convert_to_tensor(np.ones(3, "float32"))])
        assert all(np.array_equal(to_numpy(w), b) for w, b in zip(weights, before, strict=True))
        assert not np.isfinite(to_numpy(both.gradient_norm))


# -- the model -------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_distillation")
class Small(keras.Model):
    """v_hat of 4 x 4 pixels, each by itself."""

    sample_shape, conditions = (4, 4, 1), {"label": ClassLabel(3)}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.out = keras.layers.Dense(8, activation="silu"), keras.layers.Dense(1)

    def call(self, inputs, training=None):
        z_t = inputs["z_t"]
        known = ops.stack([ops.cast(inputs[name], z_t.dtype) for name in ("logsnr", "label")], axis=-1)
        known = ops.broadcast_to(known[:, None, None], (*ops.shape(z_t)[:-1], 2))
        return self.out(self.hidden(ops.concatenate([z_t, known], axis=-1)))


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(0)
    teacher = SiD2Model(Small(name="small"), **PARTS, recipe=AdamRecipe(1e-3, warmup_steps=0))
    teacher.compile()
    teacher.fit(digits(8), batch_size=8, verbose=0)
    return teacher


def digits(count: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    image = rng.uniform(-1, 1, (count, 4, 4, 1)).astype("float32")
    return {"image": image, "label": rng.integers(0, 3, count).astype("int32")}


def student_model(teacher, how=(), **recipe):
    recipe = AdamRecipe(1e-3, warmup_steps=0, beta_1=0.0, ema_decay=0.5, **recipe)
    model = MomentMatchingModel.of_teacher(teacher, 2, Guidance(1.5, (-3, 3)), recipe=recipe, seed=3, **dict(how))
    model.compile()
    return model


def fit_step(model, i: int) -> tuple[float, float]:
    """(loss, norm of the gradient) of a step."""
    logs = model.fit(digits(8, i), batch_size=8, shuffle=False, verbose=0).history
    return logs["loss"][0], logs["gradient_norm"][0]


@pytest.fixture(scope="module")
def trained(teacher):
    """(a student's model, its logs and the weights of student and auxiliary network behind each of five steps)."""
    model, logs, weights = student_model(teacher), [], []
    for i in range(5):
        logs.append(fit_step(model, i))
        weights.append([[to_numpy(v) + 0 for v in part.weights] for part in (model.network, model.auxiliary)])
    return model, logs, weights


def values_of(model) -> list[np.ndarray]:
    return [to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


def test_networks_move_in_turn_and_the_averages_are_those_of_the_students_own_steps(trained, teacher):
    model, _, weights = trained
    for i, (before, after) in enumerate(itertools.pairwise(weights), 1):
        pairs = [zip(a, b, strict=True) for a, b in zip(before, after, strict=True)]
        moved = [any(not np.array_equal(a, b) for a, b in pair) for pair in pairs]
        assert moved == [i % 2 == 1, i % 2 == 0]
    average = [0.5 * (a + b) for a, b in zip(weights[1][0], weights[3][0], strict=True)]
    for kept, wanted in zip(model.averages(), average, strict=True):
        np.testing.assert_allclose(to_numpy(kept), wanted, rtol=1e-4, atol=1e-6)
    for ours, (_, theirs) in zip(model.teacher.variables, teacher.network_values(), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def test_a_batch_in_parts_is_the_batch(trained, teacher):
    model = student_model(teacher, accumulation_steps=2)
    np.testing.assert_allclose([fit_step(model, i) for i in range(2)], trained[1][:2], rtol=1e-3)


def test_the_student_alone_draws_the_same_in_its_own_steps(trained, teacher, tmp_path):
    model = trained[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        drawn = model.generate([0, 1, 2], dtype="float32")
        model.student().save(tmp_path / "student.keras")
        alone = keras.saving.load_model(tmp_path / "student.keras")
        assert type(alone) is SiD2Model and alone.student_steps == 2 and alone.step.numpy() == model.step.numpy()
        np.testing.assert_array_equal(alone.generate([0, 1, 2], dtype="float32"), drawn)
    request = SampleRequest(alone, [0])
    assert (request.num_steps, request.sampler) == (2, DDPMSampler(0.0))
    with pytest.warns(UserWarning, match="student of 2 steps, and num_steps=4"):
        SampleRequest(alone, [0], num_steps=4)
    with pytest.warns(UserWarning, match="whose guidance is its teacher's"):
        SampleRequest(alone, [0], guidance=Guidance(2.0))
    assert SampleRequest(teacher, [0]).num_steps == 512


def test_a_student_with_frozen_layers_has_all_of_its_averages(teacher):
    recipe = AdamRecipe(1e-3, warmup_steps=0, ema_widths=(0.05, 0.1))
    model = MomentMatchingModel.of_teacher(teacher, 2, recipe=recipe)
    model.network.hidden.trainable = False
    model.compile()
    model.fit(digits(16), batch_size=8, verbose=0)
    for ours, theirs in zip(model.student()._all_averages(), model._all_averages(), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def goes_on(model, path, steps) -> MomentMatchingModel:
    """The model of a file, which has trained these steps as the model itself has, to the bit."""
    model.save(path)
    again = keras.saving.load_model(path)
    for i in steps:
        assert fit_step(model, i) == fit_step(again, i)
    for ours, theirs in zip(values_of(model), values_of(again), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return again


def test_a_file_keeps_which_layers_of_both_networks_are_frozen(teacher, tmp_path):
    model = student_model(teacher)
    for network, layer in ((model.network, "out"), (model.auxiliary, "hidden")):
        getattr(network, layer).trainable = False
    model.compile()
    fit_step(model, 0)
    goes_on(model, tmp_path / "frozen.keras", range(1, 3))


def test_a_file_goes_on_to_the_bit(trained, tmp_path):
    """Behind an odd number of steps: the student's turn is next."""
    model = trained[0]
    again = goes_on(model, tmp_path / "half.keras", range(5, 8))
    assert again.objective == model.objective and not again.teacher.trainable_variables


def plain_model(teacher, **options):
    recipe = AdamRecipe(1e-3, warmup_steps=0, ema_decay=0.5)
    model = MomentMatchingModel.of_teacher(teacher, 2, Guidance(1.5, (-3, 3)), recipe=recipe, seed=3, **options)
    model.compile()
    return model


def test_in_parameter_space_every_step_is_the_students_and_a_file_goes_on_to_the_bit(teacher, tmp_path):
    model = plain_model(teacher, matching="parameters")
    assert model.auxiliary is None and len(model.trainable_variables) == len(teacher.network.trainable_variables)
    before = [to_numpy(v) + 0 for v in model.teacher.variables]
    for i in range(3):
        weights = [to_numpy(v) + 0 for v in model.network.weights]
        fit_step(model, i)
        assert all(not np.array_equal(to_numpy(v), w) for v, w in zip(model.network.weights, weights, strict=True))
    for ours, theirs in zip(model.teacher.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), theirs)
    again = goes_on(model, tmp_path / "half.keras", range(3, 5))
    assert again.objective == model.objective and again.student().student_steps == 2
    assert model.evaluate(digits(7), batch_size=7, verbose=0, return_dict=True)["loss"] > 0
    with pytest.raises(ValueError, match="its size must be even, got 7"):
        model.fit(digits(7), batch_size=7, verbose=0)


def test_the_auxiliary_network_may_have_more_steps_and_t_be_where_the_student_draws(teacher):
    model = plain_model(teacher, auxiliary_steps=2, own_levels=True)
    inputs = model.corrupted(digits(64), model._step_keys(0, 0), model._dropout)
    s, t = (to_numpy(inputs[f"moments/{name}"]) for name in "st")
    np.testing.assert_allclose(t, np.where(s < 0.5, 0.5, 1.0))
    for i in range(6):
        weights = [[to_numpy(v) + 0 for v in part.weights] for part in (model.network, model.auxiliary)]
        fit_step(model, i)
        parts = zip((model.network, model.auxiliary), weights, strict=True)
        moved = [any(not np.array_equal(to_numpy(v), b) for v, b in zip(n.weights, w, strict=True)) for n, w in parts]
        assert moved == [i % 3 == 2, i % 3 != 2]


def test_on_its_own_chain_only_conditions_are_of_data_parts_are_the_batch_and_a_file_goes_on_to_the_bit(
    teacher, tmp_path
):
    model, in_parts, other = (
        student_model(teacher, WAYS["own chain"], **o) for o in ({}, {"accumulation_steps": 2}, {})
    )
    logs = [fit_step(model, i) for i in range(3)]
    np.testing.assert_allclose([fit_step(in_parts, i) for i in range(2)], logs[:2], rtol=1e-3)
    flipped = {**digits(8, 0), "image": -digits(8, 0)["image"]}
    assert other.fit(flipped, batch_size=8, shuffle=False, verbose=0).history["loss"][0] == logs[0][0]
    again = goes_on(model, tmp_path / "half.keras", range(3, 5))
    assert again.objective == model.objective and np.isfinite(
        model.evaluate(digits(7), verbose=0, return_dict=True)["loss"]
    )


def test_mixed_precision_trains_it(teacher):
    model = MomentMatchingModel.of_teacher(teacher, 2, dtype="mixed_bfloat16")
    model.compile()
    assert np.isfinite(model.fit(digits(16), batch_size=8, verbose=0).history["loss"]).all()


def test_wrong_input(trained, teacher):
    model = trained[0]
    cases = {
        "steps of a student must be": lambda: MomentMatchingModel.of_teacher(teacher, 0),
        "guidance must be a Guidance": lambda: MomentMatchingModel.of_teacher(teacher, 2, 1.5),
        "matching must be auxiliary or parameters": lambda: MomentMatchingModel.of_teacher(teacher, 2, matching="both"),
        "auxiliary_steps must be an integer >= 1": lambda: MomentMatchingModel.of_teacher(
            teacher, 2, auxiliary_steps=0
        ),
        "auxiliary_steps=2 needs matching='auxiliary'": lambda: MomentMatchingModel.of_teacher(
            teacher, 2, matching="parameters", auxiliary_steps=2
        ),
        "computes in float32, and got bfloat16": lambda: MomentMatchingModel.of_teacher(
            teacher, 2, matching="parameters", dtype="mixed_bfloat16"
        ),
        "accumulation_steps must be 1, got 2": lambda: MomentMatchingModel.of_teacher(
            teacher, 2, matching="parameters", recipe=AdamRecipe(accumulation_steps=2)
        ),
        "needs an auxiliary network": lambda: MomentMatchingModel(
            model.network, teacher=model.teacher, objective=model.objective
        ),
        "student of 2 steps itself": lambda: MomentMatchingModel.of_teacher(model, 2),
        "own_chain needs own_levels": lambda: MomentMatchingModel.of_teacher(teacher, 2, own_chain=True),
        "would move both": lambda: model.compile("adam"),
        "takes no weight_decay": lambda: AlternatingAdam(first=4, weight_decay=0.1),
        "has 4 trainable variables, and AlternatingAdam first=1": lambda: model.compile(AlternatingAdam(first=1)),
        "three names": lambda: MomentMatchingModel(
            model.network, teacher=model.network, auxiliary=model.auxiliary, objective=model.objective
        ),
        "needs a MomentMatching": lambda: MomentMatchingModel(
            model.network, teacher=model.teacher, auxiliary=model.auxiliary, objective=teacher.objective
        ),
    }
    for sentence, make in cases.items():
        with pytest.raises(ValueError, match=sentence):
            make()


# -- the example -----------------------------------------------------------------------------------------------------


def test_two_steps_of_a_student_are_nearer_to_the_data_than_two_of_its_teacher():
    path = pathlib.Path(__file__).parents[2] / "examples" / "moment_matching.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    trained, real = example.distilled(teacher_steps=500, student_steps=400), example.points(1000, seed=2)
    options = dict(num_images=1000, batch_size=1000, num_steps=2, dtype="float32")
    teacher, student = (example.energy_distance(model.generate(**options), real) for model in trained)
    assert student < 0.3 * teacher


def test_conditions_may_be_named_as_parts_of_the_loss():
    given = {"t": Vector(1), "x": Image((4, 4, 1)), "noise": Image((4, 4, 1))}
    network = ResidualUViT((4, 4, 1), 1, None, 8, [Level("res", 8, 1)], conditions=given)
    student = MomentMatchingModel.of_teacher(SiD2Model(network, **PARTS, label_dropout=0.0), 2)
    rng = np.random.default_rng(0)
    batch = {name: rng.normal(size=(3, *c.shape)).astype("float32") for name, c in given.items()}
    data = {"image": np.zeros((3, 4, 4, 1), "float32"), **batch}
    inputs = student.corrupted(data, student._step_keys(0, 0), student._dropout)
    for name, values in batch.items():
        np.testing.assert_array_equal(to_numpy(inputs[name]), values)
    assert np.isfinite(to_numpy(student.step_losses(inputs, True))).all()
