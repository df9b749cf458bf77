"""What Keras lets a user do with a model: each works, on what generate and evaluate read, or is refused in a sentence.

FEATURES is the table, the same on the three backends: a feature that has a sentence is refused with it, every other one
works. After it a `Plain` model in numpy, which saw each step, must agree on weights, averages and steps.
"""

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
from helpers import BACKEND, LEVELS, tiny_network
from keras.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ProgbarLogger,
    ReduceLROnPlateau,
    SwapEMAWeights,
    TerminateOnNaN,
)
from plain_model import DECAY, INPUTS, Plain, SmallNetwork, assert_equal, data, small_model, values
from training_helpers import fit_steps, stripes, tiny_model

from keras_sid2 import AdamRecipe, EmaAdam, SiD2Model
from keras_sid2.backend import steps_done
from keras_sid2.diffusion import CosineSchedule, SigmoidWeighting

optimizers = keras.optimizers


def fit(model, plain, *callbacks, batches: int = 3, **options):
    images, labels = data(16 * batches)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, labels, callbacks=[plain, *callbacks], **options)


def ema(**options):
    return EmaAdam(0.01, ema_momentum=DECAY, **options)


def sgd():
    return optimizers.SGD(0.1)


def trained(optimizer=None, *callbacks, network=None, decay=DECAY, compile=None, fit_options=None, **settings):
    """(a model after three steps, what it must hold)."""
    model = small_model(network, **settings)
    model.compile(optimizer, **(compile or {}))
    plain = Plain(model, decay)
    fit(model, plain, *callbacks, **(fit_options or {}))
    return model, plain


def optimizer(make, **options):
    return lambda folder: trained(make(), **options)


def callback(make, **options):
    return lambda folder: trained(None, make(folder), fit_options={"validation_data": data(16), **options})


# -- optimizers ------------------------------------------------------------------------------------------------------


def loss_scaled_by_itself(folder):
    model, plain = trained(network=SmallNetwork(dtype="mixed_float16"))
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    assert "gradient_norm" in model.history.history
    return model, plain


def attention_in_float16(folder):
    model = tiny_model(network=tiny_network(dtype="mixed_float16", levels=LEVELS[1:]))
    fit_steps(model)
    assert np.isfinite(model.evaluate(*stripes(16), verbose=0)).all() and steps_done(model) == 4


def other_global(setter: str, usual: str, other: str):
    def feature(folder):
        try:
            getattr(keras.config, setter)(other)
            small_model()
        finally:
            getattr(keras.config, setter)(usual)

    return feature


def multi(make):
    return optimizers.MultiOptimizer(optimizers.OptimizerMap(make(), {".*/first/.*": make()}))


# -- freezing --------------------------------------------------------------------------------------------------------


def frozen_before_compile(folder):
    network = SmallNetwork()
    small_model(network).network.first.trainable = False
    kept = values(network.first.weights)
    model, plain = trained(network=network)
    assert_equal(values(network.first.weights), kept)
    assert len(model.trainable_variables) == len(model.averages()) == 2
    return model, plain


def frozen_after_compile(folder):
    model, plain = trained()
    model.network.first.trainable = False
    model.evaluate(*data(), verbose=0)
    return model, plain


def frozen_and_trained_without_compile(folder):
    model, plain = frozen_after_compile(folder)
    fit(model, plain)


def frozen_and_compiled_again(folder):
    model, plain = frozen_after_compile(folder)
    model.compile()
    kept = values(model.network.first.weights)
    fit(model, plain)
    assert_equal(values(model.network.first.weights), kept)
    return model, plain


def frozen_and_freed(folder):
    model, plain = trained()
    model.network.first.trainable = False
    model.compile()
    model.network.first.trainable = True
    model.compile()
    fit(model, plain)
    return model, plain


def frozen_saved_and_loaded(folder):
    model, plain = frozen_and_compiled_again(folder)
    loaded = through_a_file(model, folder)
    assert not loaded.network.first.trainable and loaded.network.last.trainable
    assert_equal(values(loaded.optimizer.variables), values(model.optimizer.variables))
    fit(loaded, plain)
    return loaded, plain


def compiled_with_the_optimizer_of_before(folder):
    model, plain = frozen_after_compile(folder)
    model.compile(model.optimizer)


# -- files, copies, orders -------------------------------------------------------------------------------------------


def through_a_file(model, folder, **options):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras", **options)


@functools.cache
def trained_once():
    return trained()


def loaded(how):
    """A model that came out of a trained one, the same for all, by `how(model, folder)`, and what it must hold."""

    def feature(folder):
        model, plain = trained_once()
        return how(model, folder), plain

    return feature


def weights_file(model, folder, other=None):
    other = other or small_model(seed=1)
    model.save_weights(folder / "some.weights.h5")
    other.load_weights(folder / "some.weights.h5")
    return other


def weights_of_a_keras_file(model, folder):
    model.save(folder / "model.keras")
    other = small_model(seed=1)
    other.load_weights(folder / "model.keras")
    return other


def weights_into_a_compiled_one(model, folder):
    other = small_model(seed=1)
    other.compile()
    fit(other, Plain(other))
    return weights_file(model, folder, other)


def weights_into_one_with_sgd(model, folder):
    other = small_model(seed=1)
    other.compile(sgd())
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        return weights_file(model, folder, other)


def compiled_after_loading(model, folder):
    other = weights_file(model, folder)
    other.compile()
    return other


def compiled_after_loading_with_sgd(model, folder):
    other = weights_file(model, folder)
    other.compile(sgd())
    return through_a_file(other, folder)


def plain_optimizer_through_a_file(folder):
    model, plain = trained(sgd(), decay=None)
    assert model.averages() is None
    model = through_a_file(model, folder)
    assert model.averages() is None
    fit(model, plain)
    return model, plain


def plain_optimizer_and_then_ema(folder):
    model, plain = trained(sgd(), decay=None)
    model.compile(ema())
    plain.decay, plain.average = DECAY, plain.weights
    fit(model, plain)
    return model, plain


def all_weights(model, folder):
    other = small_model(seed=1)
    other.set_weights(model.get_weights())
    return other


def weights_of_the_network_alone(folder):
    model, plain = trained()
    model.set_weights([w + 1.0 for w in plain.weights])
    plain.weights = plain.average = [w + 1.0 for w in plain.weights]
    return model, plain


def cloned(folder):
    model, _ = trained()
    other = keras.models.clone_model(model)
    return other, Plain(other)


def compiled_twice(folder):
    model, plain = trained()
    model.compile(ema())
    assert int(model.optimizer.iterations.numpy()) == 0
    plain.check(model)
    fit(model, plain)
    return model, plain


def another_optimizer_after_it(folder):
    model, plain = trained()
    model.compile(sgd())
    fit(model, plain)
    return model, plain


def a_second_fit(folder):
    model, plain = trained()
    fit(model, plain)
    return model, plain


def stopped_early_with_the_best_weights(folder):
    """The first epoch is made the best one: what comes back is what generate drew from then."""
    first = []
    model = small_model()
    model.compile()
    plain = Plain(model)
    keep = LambdaCallback(on_epoch_end=lambda epoch, logs: first or first.append(copy.deepcopy(vars(plain))))
    worse = EarlyStopping("steps", mode="min", patience=1, restore_best_weights=True)
    count = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(steps=epoch))
    fit(model, plain, keep, count, worse, epochs=3)
    plain.weights, plain.average, plain.steps = (first[0][name] for name in ("weights", "average", "steps"))
    return model, plain


def backed_up_and_restored(folder):
    """A fit that breaks off in its third epoch goes on from the end of the second one."""
    model = small_model()
    model.compile()
    plain = Plain(model)

    def break_off(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, plain, BackupAndRestore(folder), LambdaCallback(on_epoch_begin=break_off), epochs=3)
    other = small_model(seed=1)
    other.compile()
    fit(other, plain, BackupAndRestore(folder), epochs=3)
    return other, plain


def checkpoint_of_the_best(folder):
    model, plain = trained(None, ModelCheckpoint(folder / "{epoch}.keras", save_best_only=True, monitor="loss"))
    return keras.saving.load_model(folder / "1.keras"), plain


def in_the_midst_of_fit(folder):
    """What a callback reads, draws, evaluates and saves between two steps is what the model holds then."""
    model = small_model()
    model.compile()
    plain = Plain(model)

    def look(epoch, logs):
        plain.check(model)
        model.evaluate(*data(), verbose=0)
        model.save(folder / f"{epoch}.keras")
        plain.check(keras.saving.load_model(folder / f"{epoch}.keras"))

    fit(model, plain, LambdaCallback(on_epoch_end=look), epochs=2)
    return model, plain


# -- ways to run -----------------------------------------------------------------------------------------------------


def batch_by_batch(folder):
    model = small_model()
    model.compile()
    plain, (images, labels) = Plain(model), data(48)
    plain.set_model(model)
    for i in range(3):
        part = slice(16 * i, 16 * i + 16)
        model.train_on_batch(images[part], labels[part])
        plain.on_train_batch_end(i)
    raw, averaged = (model.test_on_batch(images, labels, use_ema=ema)[0] for ema in (False, True))
    assert raw != averaged == model.evaluate(images, labels, batch_size=48, verbose=0)[0]
    return model, plain


def several_steps_an_execution(folder):
    """Plain sees the model after every second step only: of those between it cannot tell the averages."""
    model, _ = trained(fit_options={"batches": 4})
    model_of_two, _ = trained(compile={"steps_per_execution": 2}, fit_options={"batches": 4})
    for read in (lambda m: m.trainable_variables, lambda m: m.averages()):
        assert_equal(values(read(model_of_two)), values(read(model)))
    assert steps_done(model_of_two) == 4


def described(folder):
    model, plain = trained()
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    told = lines[-1]
    assert told == repr(model) and "step 3>" in told and "SigmoidWeighting(bias=" in told and "label ClassLabel" in told
    assert f"{sum(np.prod(v.shape) for v in model.network.weights):,} parameters" in told and "multiply-adds" in told
    return model, plain


FEATURES = {
    "optimizer: none, the recipe's": optimizer(lambda: None),
    "optimizer: EmaAdam": optimizer(ema),
    "optimizer: a name": optimizer(lambda: "adam", decay=None),
    "optimizer: SGD": optimizer(lambda: sgd(), decay=None),
    "optimizer: Muon": optimizer(lambda: optimizers.Muon(0.01), decay=None),
    "optimizer: ScheduleFreeAdamW": optimizer(lambda: optimizers.ScheduleFreeAdamW(0.01), decay=None),
    "optimizer: LossScaleOptimizer(EmaAdam)": optimizer(lambda: optimizers.LossScaleOptimizer(ema())),
    "optimizer: LossScaleOptimizer(SGD)": optimizer(lambda: optimizers.LossScaleOptimizer(sgd()), decay=None),
    "optimizer: MultiOptimizer(EmaAdam)": optimizer(lambda: multi(ema)),
    "optimizer: MultiOptimizer(SGD)": optimizer(lambda: multi(lambda: sgd()), decay=None),
    "optimizer: use_ema": (
        optimizer(lambda: optimizers.Adam(0.1, use_ema=True)),
        r"Adam\(use_ema=True\) would put averages",
    ),
    "optimizer: accumulation of Keras's own": (
        optimizer(lambda: optimizers.LossScaleOptimizer(ema(gradient_accumulation_steps=2))),
        r"EmaAdam\(gradient_accumulation_steps=2\) counts each part.*AdamRecipe\(accumulation_steps=",
    ),
    "optimizer: two decays": (
        optimizer(
            lambda: optimizers.MultiOptimizer(
                optimizers.OptimizerMap(ema(), {".*/first/.*": EmaAdam(ema_momentum=0.9)})
            )
        ),
        "must have one ema_momentum",
    ),
    "optimizer: of another model": (
        lambda folder: small_model().compile(trained()[0].optimizer),
        "EmaAdam was built for other variables",
    ),
    "policy: mixed_bfloat16": lambda folder: trained(network=SmallNetwork(dtype="mixed_bfloat16")),
    "policy: mixed_float16": loss_scaled_by_itself,
    "policy: mixed_float16, with attention": attention_in_float16,
    "policy: floatx": (other_global("set_floatx", "float32", "float16"), r"set_floatx\('float32'\)"),
    "policy: channels_first": (
        other_global("set_image_data_format", "channels_last", "channels_first"),
        r"set_image_data_format\('channels_last'\)",
    ),
    "policy: mixed_float16 and accumulation": (
        lambda folder: trained(network=SmallNetwork(dtype="mixed_float16"), recipe=AdamRecipe(accumulation_steps=2)),
        "accumulation_steps > 1 does not go with float16",
    ),
    "policy: bfloat16": (
        lambda folder: trained(network=SmallNetwork(dtype="bfloat16")),
        "must be float32.*is bfloat16: make it with dtype='mixed_bfloat16'",
    ),
    "frozen: before compile": frozen_before_compile,
    "frozen: after compile, evaluated": frozen_after_compile,
    "frozen: after compile, trained": (
        frozen_and_trained_without_compile,
        r"since compile\(\): call compile\(\) again",
    ),
    "frozen: compiled again": frozen_and_compiled_again,
    "frozen: compiled with the same optimizer": (compiled_with_the_optimizer_of_before, "built for other variables"),
    "frozen: and freed": frozen_and_freed,
    "frozen: saved, loaded, trained on": frozen_saved_and_loaded,
    "file: .keras": loaded(through_a_file),
    "file: .keras, compile=False": loaded(lambda model, folder: through_a_file(model, folder, compile=False)),
    "file: .weights.h5": loaded(weights_file),
    "file: load_weights of a .keras": loaded(weights_of_a_keras_file),
    "file: load_weights into a trained model": loaded(weights_into_a_compiled_one),
    "file: load_weights into one with SGD": loaded(weights_into_one_with_sgd),
    "file: load_weights, then compile": loaded(compiled_after_loading),
    "file: load_weights, then SGD, then .keras": loaded(compiled_after_loading_with_sgd),
    "file: of SGD, .keras": plain_optimizer_through_a_file,
    "copy: pickle": loaded(lambda model, folder: pickle.loads(pickle.dumps(model))),
    "copy: deepcopy": loaded(lambda model, folder: copy.deepcopy(model)),
    "copy: clone_model": cloned,
    "copy: get_weights, set_weights": loaded(all_weights),
    "copy: set_weights of the network's alone": weights_of_the_network_alone,
    "order: compile, fit, compile, fit": compiled_twice,
    "order: SGD after EmaAdam": another_optimizer_after_it,
    "order: EmaAdam after SGD": plain_optimizer_and_then_ema,
    "order: fit, fit": a_second_fit,
    "run: train_on_batch, test_on_batch": batch_by_batch,
    "run: run_eagerly": lambda folder: trained(compile={"run_eagerly": True}),
    "run: without jit": lambda folder: trained(compile={"jit_compile": False}),
    "run: steps_per_execution": several_steps_an_execution,
    "run: evaluate before compile": (
        lambda folder: small_model().evaluate(*data()),
        r"evaluate needs.*compile\(\) first",
    ),
    "run: fit before compile": (lambda folder: small_model().fit(*data()), r"fit needs.*compile\(\) first"),
    "run: predict before compile": lambda folder: (m := small_model(), m.predict(INPUTS, verbose=0), Plain(m))[::2],
    "run: summary and repr": described,
    "run: export": (
        lambda folder: small_model().export(folder / "saved", "tf_saved_model"),
        "format must be one of savedmodel, onnx, torch, jax, got 'tf_saved_model'",
    ),
    "run: predict of images": (lambda folder: trained()[0].predict(data()[0]), "to draw images call generate"),
    "network: enable_lora": (
        lambda folder: (m := trained()[0], m.network.first.enable_lora(2), m.weights_digest()),
        "make a new SiD2Model of the changed network",
    ),
    "callback: BackupAndRestore": backed_up_and_restored,
    "callback: CSVLogger": callback(lambda folder: CSVLogger(folder / "log.csv")),
    "callback: EarlyStopping, the best weights": stopped_early_with_the_best_weights,
    "callback: LambdaCallback, looks within fit": in_the_midst_of_fit,
    "callback: LearningRateScheduler": callback(lambda folder: LearningRateScheduler(lambda epoch, rate: 0.5 * rate)),
    "callback: LearningRateScheduler and a warm-up": (
        lambda folder: trained(AdamRecipe().build(), LearningRateScheduler(lambda epoch, rate: 0.5 * rate)),
        "LearningRateScheduler sets the learning rate, and this optimizer's follows a schedule",
    ),
    "callback: ModelCheckpoint, the best": checkpoint_of_the_best,
    "callback: ProgbarLogger": callback(lambda folder: ProgbarLogger()),
    "callback: ReduceLROnPlateau": callback(lambda folder: ReduceLROnPlateau(patience=1), epochs=3),
    "callback: ReduceLROnPlateau and a MultiOptimizer": (
        lambda folder: trained(multi(ema), ReduceLROnPlateau()),
        "ReduceLROnPlateau sets the learning rate",
    ),
    "callback: SwapEMAWeights": (callback(lambda folder: SwapEMAWeights()), "SwapEMAWeights would exchange weights"),
    "callback: SwapEMAWeights in evaluate": (
        lambda folder: trained()[0].evaluate(*data(), callbacks=[SwapEMAWeights()]),
        "SwapEMAWeights would exchange weights",
    ),
    "callback: TerminateOnNaN": callback(lambda folder: TerminateOnNaN()),
}


@pytest.mark.filterwarnings("ignore:.*supports_jit.*")
@pytest.mark.parametrize("feature", FEATURES)
def test_it_works_or_is_refused(feature, tmp_path):
    if feature == "run: steps_per_execution" and BACKEND == "torch":
        pytest.skip("Keras has none on torch")
    entry = FEATURES[feature]
    run, sentence = entry if isinstance(entry, tuple) else (entry, None)
    if sentence is not None:
        with pytest.raises(ValueError, match=sentence) as error:
            run(tmp_path)
        assert "\n" not in str(error.value)
        return
    found = run(tmp_path)
    if found is not None:
        model, plain = found
        plain.check(model)


def test_a_model_tells_of_itself_where_it_is_traced_and_before_it_is_made():
    told = []

    class Telling(SiD2Model):
        def step_losses(self, inputs, training):
            told.append(repr(self))
            return super().step_losses(inputs, training)

    model = Telling(tiny_network(), schedule=CosineSchedule(), weighting=SigmoidWeighting(0.0))
    model.compile()
    fit_steps(model, count=16)
    assert told and all("parameters" in each and "; step " in each for each in told)
    assert repr(Telling.__new__(Telling)) == "<Telling, not made yet>"
