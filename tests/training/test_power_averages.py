"""Power-function averages: Eqs. (1) to (3) of power_averages.py, what training keeps, and what snapshots make of it."""

import json
import zipfile

import keras
import numpy as np
import pytest
from helpers import BACKEND, tiny_network
from training_helpers import fit_steps, one_level_model, same_weights, tiny_model, with_averages

from keras_sid2 import AdamRecipe, SampleRequest
from keras_sid2.callbacks.saving import SaveSnapshots
from keras_sid2.checkpoints import load_model
from keras_sid2.training.averaged_model import parameters
from keras_sid2.training.power_averages import as_widths, exponent, fitted, newest_share, reach
from keras_sid2.training.snapshots import Reconstruction, drop_snapshots_after, save_snapshot, snapshots

WIDTHS = (0.05, 0.10)
RECIPE = AdamRecipe(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9, ema_widths=WIDTHS)


def profile(width: float, steps: int) -> np.ndarray:
    """p(i) of Eq. (1), from the density on [0, 1] with this standard deviation, found by bisection and quadrature."""
    low, high = 0.0, 1e6
    for _ in range(200):
        g = (low + high) / 2
        mean = (g + 1) / (g + 2)
        low, high = (low, g) if (g + 1) / (g + 3) - mean**2 < width**2 else (g, high)
    return np.diff((np.arange(steps + 1) / steps) ** (g + 1))


def walk(steps: int = 1000) -> np.ndarray:
    """Weights behind each step, float32 [steps, 60]: a random walk that goes as far as the first weights are large."""
    rng = np.random.default_rng(0)
    moves = 0.03 * rng.normal(size=(steps, 60))
    return (rng.normal(size=60) + np.cumsum(moves, axis=0)).astype("float32")


def kept(weights: np.ndarray, width: float, steps) -> np.ndarray:
    """The averages that the recursion (2) has after each of `steps`, float32 as in training."""
    shares = keras.ops.convert_to_numpy(newest_share(np.arange(len(weights), dtype="int32"), width))
    average, found = np.zeros_like(weights[0]), []
    for i, (share, weight) in enumerate(zip(shares, weights, strict=True), 1):
        average = average + share * (weight - average)
        found += [average] if i in steps else []
    return np.stack(found)


class Walked:
    """What save_snapshot reads of a model, at a step of a walk."""

    def __init__(self, step: int, averages: dict[float, np.ndarray]):
        self.step = keras.Variable(step, dtype="int32", trainable=False)
        parts = {width: [values[:24].reshape(4, 6), values[24:]] for width, values in averages.items()}
        self.width_averages = {w: [keras.Variable(v, trainable=False) for v in part] for w, part in parts.items()}


def walked(folder, steps, dtype: str = "float32", weights=None) -> np.ndarray:
    weights = walk() if weights is None else weights
    found = {width: kept(weights, width, steps) for width in WIDTHS}
    for i, step in enumerate(steps):
        save_snapshot(Walked(step, {width: values[i] for width, values in found.items()}), folder, dtype=dtype)
    return weights


def error(found: Reconstruction, weights: np.ndarray) -> float:
    """Of a reconstruction, relative to the average kept directly."""
    values = np.concatenate([value.ravel() for value in found])
    direct = profile(found.width, found.step) @ weights[: found.step].astype("float64")
    return float(np.linalg.norm(values - direct) / np.linalg.norm(direct))


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.25])
def test_exponent_of_a_width(width):
    g = exponent(width)
    mean, square = (g + 1) / (g + 2), (g + 1) / (g + 3)
    assert np.sqrt(square - mean**2) == pytest.approx(width, rel=1e-9)


def test_the_recursion_is_the_sum():
    weights = walk(200)
    for width in WIDTHS:
        direct = profile(width, 200) @ weights.astype("float64")
        np.testing.assert_allclose(kept(weights, width, [200])[0], direct, rtol=2e-5, atol=2e-6)


def test_the_share_of_the_newest_weights_late_in_a_run():
    share = float(newest_share(np.int32(5_000_000), 0.05))
    assert share == pytest.approx(1 - (1 - 1 / 5_000_001) ** (exponent(0.05) + 1), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [0.04, 0.07, 0.15])
def test_reconstructed_equals_kept_directly(tmp_path, width, dtype):
    weights = walked(tmp_path, range(80, 1001, 80) if dtype == "float32" else range(40, 1001, 40), dtype)
    assert error(Reconstruction(tmp_path, width), weights) < 1e-3
    assert error(Reconstruction(tmp_path, width, step=800), weights) < 1e-3


def test_stored_widths_come_back_and_coefficients_add_up():
    for width in (*WIDTHS, 0.07):
        found = fitted(width, 800, range(100, 1001, 100)[:8], WIDTHS)
        assert found.coefficients.sum() == pytest.approx(1.0, abs=1e-9)
    assert fitted(0.05, 800, [400, 800], WIDTHS).missed < 1e-4


def test_more_snapshots_reach_farther():
    few, many = (reach(1000, range(n, 1001, n), WIDTHS) for n in (125, 25))
    assert many[0] < few[0] < 0.05 and 0.1 < few[1] < many[1]


def test_files_are_streamed_and_hold_no_pickle(tmp_path):
    walked(tmp_path, [500, 1000], "float16")
    with zipfile.ZipFile(snapshots(tmp_path)[500]) as file:
        assert sorted(file.namelist()) == ["0/0.npy", "0/1.npy", "1/0.npy", "1/1.npy", "about.npy"]
    with np.load(snapshots(tmp_path)[500], allow_pickle=False) as file:
        assert file["0/0"].dtype == "float16" and json.loads(file["about"].tobytes())["step"] == 500
    drop_snapshots_after(tmp_path, 999)
    assert [*snapshots(tmp_path)] == [500]


WRONG = {
    "too narrow": ({"width": 0.005}, r"width 0.005 is out of reach, the 8 snapshots in .* up to step 1000 reach 0.0"),
    "too wide": ({"width": 0.28}, "width 0.28 is out of reach"),
    "no width": ({"width": 0.4}, r"must be in \(0, 0.28\], got 0.4"),
    "no such step": ({"width": 0.07, "step": 510}, "no snapshot of step 510, but 8 of steps 125 to 1000: the nearest"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_reconstructed(tmp_path, case):
    walked(tmp_path, range(125, 1001, 125))
    asked, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        Reconstruction(tmp_path, **asked)


def test_no_snapshots_and_damaged_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no snapshots of averages: sid2-train writes them with"):
        Reconstruction(tmp_path / "none", 0.07)
    walked(tmp_path, [500, 1000])
    data = snapshots(tmp_path)[500].read_bytes()
    snapshots(tmp_path)[500].write_bytes(data[:-100])
    with pytest.raises(ValueError, match="step_0000000500.npz is no snapshot that can be read"):
        Reconstruction(tmp_path, 0.07)
    snapshots(tmp_path)[500].write_bytes(snapshots(tmp_path)[1000].read_bytes())
    with pytest.raises(ValueError, match="its name is of another step"):
        Reconstruction(tmp_path, 0.07)


@pytest.mark.parametrize("widths", [(0.0,), (0.3,), ("a",), (0.1, 0.1)])
def test_widths_that_are_none(widths):
    with pytest.raises(ValueError, match=r"ema_widths must be different numbers in \(0, 0.28\]"):
        as_widths(widths)
    assert as_widths([0.1, 0.05]) == (0.05, 0.1) and as_widths(0.1) == (0.1,)


# -- in training ---------------------------------------------------------------------------------------------------


class Weights(keras.callbacks.Callback):
    """The weights behind each step."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        network = self._model.network
        if BACKEND == "jax":
            self._model.jax_state_sync()
        self.found.append([keras.ops.convert_to_numpy(v.value).copy() for v in parameters(network)])


def flat(values) -> np.ndarray:
    return np.concatenate([keras.ops.convert_to_numpy(value).ravel() for value in values])


def trained(folder, recipe=RECIPE, passes: int = 5):
    """(model, weights behind each of 4 `passes` steps, float64 [steps, N])."""
    model, watched = one_level_model(recipe=recipe), Weights()
    fit_steps(model, epochs=passes, callbacks=[SaveSnapshots(folder, every=4), watched])
    return model, np.stack([flat(step) for step in watched.found]).astype("float64")


def test_training_keeps_them_and_snapshots_make_others(tmp_path):
    model, weights = trained(tmp_path)
    for width, averages in model.width_averages.items():
        direct = profile(width, 20) @ weights
        np.testing.assert_allclose(flat([a.value for a in averages]), direct, rtol=1e-4, atol=1e-6)
    assert [*snapshots(tmp_path)] == [4, 8, 12, 16, 20]
    before = flat([a.value for a in model.averages()])
    for width in (0.06, 0.08, 0.12):
        model.reconstruct_average(tmp_path, width)
        direct = profile(width, 20) @ weights
        found = flat([a.value for a in model.averages()])
        assert np.linalg.norm(found - direct) < 1e-3 * np.linalg.norm(direct)
    assert np.abs(found - before).max() > 1e-4
    assert SampleRequest(model, [0], num_steps=2).describe()["ema_width"] == "0.12 at step 20"
    assert "ema_width" not in SampleRequest(model, [0], num_steps=2, use_ema=False).describe()
    for after in (fit_steps, lambda m: m.set_weights(m.get_weights()), lambda m: m.reset_averages()):
        model.reconstruct_average(tmp_path, 0.07, step=20)
        after(model)
        assert model.reconstructed is None


def test_weights_and_single_average_do_not_change():
    plain, beside = one_level_model(recipe=AdamRecipe(3e-3, 2, ema_decay=0.9)), one_level_model(recipe=RECIPE)
    for model in (plain, beside):
        fit_steps(model)
    assert same_weights(plain, beside)
    pairs = zip(plain.averages(), beside.averages(), strict=True)
    assert all(np.array_equal(*(keras.ops.convert_to_numpy(v.value) for v in pair)) for pair in pairs)
    assert len(beside.variables) == len(plain.variables) + 2 * len(plain.network.trainable_variables)


def test_resumed_to_the_bit(tmp_path):
    whole, part = one_level_model(recipe=RECIPE), one_level_model(recipe=RECIPE)
    fit_steps(whole)
    fit_steps(part, count=32)
    part.save(tmp_path / "part.keras")
    part = load_model(tmp_path / "part.keras")
    assert part.recipe == RECIPE
    fit_steps(part, start=2)
    for one, other in zip(whole.variables, part.variables, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v.value) for v in (one, other)))


def test_microbatches_and_another_optimizer(tmp_path):
    model = one_level_model(recipe=AdamRecipe(3e-3, 2, ema_decay=0.9, ema_widths=WIDTHS, accumulation_steps=2))
    fit_steps(model, callbacks=[watched := Weights()])
    weights = np.stack([flat(step) for step in watched.found]).astype("float64")
    direct = profile(0.05, 4) @ weights
    np.testing.assert_allclose(flat([a.value for a in model.width_averages[0.05]]), direct, rtol=1e-4, atol=1e-6)
    other = one_level_model(compiled=False, recipe=RECIPE)
    other.compile(keras.optimizers.SGD(0.1))
    fit_steps(other)
    assert other.averages() is None
    other.save(tmp_path / "sgd.keras")
    again = load_model(tmp_path / "sgd.keras")
    for width, averages in other.width_averages.items():
        values = [flat([a.value for a in found]) for found in (averages, again.width_averages[width])]
        np.testing.assert_array_equal(*values)
    assert again.averages() is None


def test_files_without_them_load(tmp_path):
    plain = one_level_model(compiled=False, weights_seed=1)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = one_level_model(compiled=False, recipe=RECIPE)
    model.load_weights(tmp_path / "plain.weights.h5")
    model._complete()
    weights = flat([v.value for v in model.network.trainable_variables])
    for averages in model.width_averages.values():
        np.testing.assert_array_equal(flat([a.value for a in averages]), weights)


def test_a_file_of_other_widths_gives_those_that_both_have(tmp_path):
    model, other = (one_level_model(recipe=AdamRecipe(3e-3, 2, ema_widths=widths)) for widths in (WIDTHS, (0.1, 0.2)))
    fit_steps(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    other._complete()
    wanted = {0.1: model.width_averages[0.1], 0.2: parameters(model.network)}
    for width, values in wanted.items():
        np.testing.assert_array_equal(
            flat([v.value for v in other.width_averages[width]]), flat([v.value for v in values])
        )


def test_snapshots_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="give AdamRecipe\\(ema_widths="):
        save_snapshot(one_level_model(), tmp_path)
    model = one_level_model(compiled=False, recipe=RECIPE)
    model.step.assign(4)
    save_snapshot(model, tmp_path)
    other = tiny_model(compiled=False, network=tiny_network(embedding_dim=16), recipe=RECIPE)
    before = [keras.ops.convert_to_numpy(a.value).copy() for a in other._averages]
    with pytest.raises(ValueError, match="of another network: they have weights of other shapes|they have .* weights"):
        other.reconstruct_average(tmp_path, 0.05)
    for one, average in zip(before, other._averages, strict=True):
        np.testing.assert_array_equal(one, keras.ops.convert_to_numpy(average.value))


def test_a_model_that_cannot_take_a_reconstruction_stays_as_it_is(tmp_path):
    model = one_level_model(compiled=False, recipe=RECIPE)
    with_averages(model)
    path = save_snapshot(model, tmp_path)
    before = flat([a.value for a in model.averages()])
    data = path.read_bytes()
    place = data.rindex(b"NUMPY") + 128  # in the last array, behind its header
    path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    with pytest.raises(ValueError, match="is no snapshot that can be read .*: remove it"):
        model.reconstruct_average(tmp_path, 0.1)
    np.testing.assert_array_equal(flat([a.value for a in model.averages()]), before)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="has done no step: load a checkpoint of the run"):
        one_level_model(recipe=RECIPE).reconstruct_average(tmp_path, 0.1)
