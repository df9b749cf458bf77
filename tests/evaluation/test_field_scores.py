"""Metrics of fields against closed forms, direct sums and scipy."""

import numpy as np
import pytest
from scipy import stats

from keras_sid2.evaluation import (
    EnsembleScores,
    FieldScores,
    FieldStatistics,
    Measurement,
    check_comparable,
    fair_crps,
    measure_fields,
    power_spectrum,
)

pytestmark = pytest.mark.backend_free
BOTH = ("height", "width")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def crps_of_normal(y, mean=0.0, std=1.0):
    """Gneiting and Raftery 2007, eq. (21)."""
    z = (y - mean) / std
    return std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)


@pytest.mark.parametrize("members", [2, 3, 8])
def test_the_fair_crps_is_the_mean_over_all_pairs(members):
    x, y = normal(5, members, 4, 4, 2), normal(5, 4, 4, 2, seed=1)
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (members * (members - 1))
    expected = np.abs(x - y[:, None]).mean(1) - 0.5 * pairs
    np.testing.assert_allclose(fair_crps(x, y), expected, atol=1e-12)


def test_the_fair_crps_of_few_members_is_on_average_that_of_their_distribution():
    y = normal(400_000)
    found = fair_crps(normal(400_000, 2, seed=1), y)
    difference = found - crps_of_normal(y)
    assert abs(difference.mean()) < 4 * difference.std() / 400_000**0.5
    assert abs(crps_of_normal(y).mean() - np.pi**-0.5) < 0.005  # of a truth of the distribution


def scored(x, y, **options):
    scores = FieldScores(["u", "v"], **options)
    for start in range(0, len(y), 7):
        scores.add(x[start : start + 7], y[start : start + 7])
    return scores.metrics()


@pytest.mark.parametrize("members", [2, 5])
def test_spread_and_skill_are_one_to_one_where_the_truth_is_as_a_member(members):
    both = normal(200, members + 1, 8, 8, 2) * [1.0, 3.0] + normal(200, 1, 8, 8, 2, seed=1)
    found = scored(both[:, 1:], both[:, 0])
    assert abs(found["spread_skill_u"] - 1) < 0.02 and abs(found["spread_skill_v"] - 1) < 0.02
    assert abs(found["spread_v"] - 3.0) < 0.05
    assert abs(found["rmse_v"] - 3.0 * (1 + 1 / members) ** 0.5) < 0.05


def test_batches_and_direct_sums_agree():
    x, y, weights = normal(20, 3, 4, 6, 2), normal(20, 4, 6, 2, seed=1), np.array([0.5, 1.0, 2.0, 0.5])
    found, rows = scored(x, y, weights=weights), weights / weights.mean()
    mean = x.mean(1)
    expected = {
        "mae": (np.abs(mean - y) * rows[:, None, None]).mean((0, 1, 2)),
        "rmse": (np.square(mean - y) * rows[:, None, None]).mean((0, 1, 2)) ** 0.5,
        "spread": (x.var(1, ddof=1) * rows[:, None, None]).mean((0, 1, 2)) ** 0.5,
        "crps": (fair_crps(x, y) * rows[:, None, None]).mean((0, 1, 2)),
    }
    for key, values in expected.items():
        np.testing.assert_allclose([found[f"{key}_u"], found[f"{key}_v"]], values, rtol=1e-12)
    weight = np.broadcast_to(rows[:, None], (20, 3, 4, 6)).ravel()
    by_scipy = stats.wasserstein_distance(x[..., 1].ravel(), y[..., 1].ravel(), weight, weight[: y[..., 1].size])
    np.testing.assert_allclose(found["wasserstein_v"], by_scipy, rtol=1e-12)


def test_a_shift_is_its_own_histogram_distance_and_few_values_tell_it():
    fields, few = normal(50, 16, 16, 2), FieldStatistics(capacity=2000)
    whole, moved = FieldStatistics(), FieldStatistics()
    for start in range(0, 50, 10):
        few.add(fields[start : start + 10])
        whole.add(fields[start : start + 10])
    moved.add(fields + [0.0, 2.5])
    np.testing.assert_allclose(whole.distances(moved)["wasserstein"], [0.0, 2.5], atol=1e-12)
    np.testing.assert_allclose(few.distances(moved)["wasserstein"], [0.0, 2.5], atol=0.15)
    assert whole.distances(moved)["log_spectral_distance"][0] < 1e-9


def test_what_is_kept_does_not_depend_on_batches():
    fields, found = normal(40, 8, 8, 1), []
    for size in (1, 40):
        kept = FieldStatistics(capacity=100)
        for start in range(0, 40, size):
            kept.add(fields[start : start + size])
        found.append(np.sort(kept._rows[:, 0]))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("shape", [(8, 8), (8, 16), (12, 8)])
def test_a_wave_has_its_power_at_its_wavenumber(shape):
    y, x = (np.arange(n) / min(shape) for n in shape)
    wave = np.sqrt(2.0) * np.cos(2 * np.pi * (3 * x[None] + 0 * y[:, None]) + 0.4)
    k, power = power_spectrum(wave[..., None])
    ring = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) * min(shape) for n in shape), indexing="ij"))
    modes = ((ring >= 2.5) & (ring < 3.5)).sum()
    np.testing.assert_array_equal(k, [1, 2, 3, 4])
    np.testing.assert_allclose(power[:, 0], [0, 0, 1 / modes, 0], atol=1e-12)


@pytest.mark.parametrize("periodic", [BOTH, ("width",), ()])
def test_white_noise_has_the_same_power_everywhere_window_or_not(periodic):
    _, power = power_spectrum(2.0 * normal(4000, 16, 16, 1), periodic)
    np.testing.assert_allclose(power.mean(0)[1:, 0] * 256, 4.0, rtol=0.05)  # the first ring loses some with the mean


def test_without_the_window_a_slope_has_power_at_all_wavenumbers():
    slope = np.broadcast_to(np.linspace(-1, 1, 32)[None, :, None], (32, 32, 1))
    cut, faded = (power_spectrum(slope, periodic)[1][-1, 0] for periodic in (BOTH, ("height",)))
    assert faded < 0.01 * cut


def test_noise_and_blur_move_the_spectrum_in_decibels():
    truth, louder = FieldStatistics(BOTH), FieldStatistics(BOTH)
    truth.add(normal(10, 8, 8, 2))
    louder.add(normal(10, 8, 8, 2) * [1.0, 10.0])
    np.testing.assert_allclose(louder.distances(truth)["log_spectral_distance"], [0.0, 20.0], atol=1e-9)


def test_a_constant_channel_has_no_infinite_spectrum():
    kept = FieldStatistics(BOTH)
    kept.add(np.ones((3, 8, 8, 1)))
    assert np.isfinite(kept.distances(kept)["log_spectral_distance"]).all()


def test_a_measurement_says_how_it_was_made(tmp_path):
    x, y = normal(6, 2, 8, 8, 2), normal(6, 8, 8, 2, seed=1)
    found = measure_fields([(x[:4], y[:4]), (x[4:], y[4:])], ["u", "v"], periodic="width", drawn={"seed": 3})
    found.write(tmp_path / "found.json")
    assert Measurement.read(tmp_path / "found.json") == found
    assert found.measured["ensemble_size"] == 2 and found.measured["images"] == 12 and found.drawn["seed"] == 3
    other = measure_fields([(x[:, :, :, ::-1], y)], ["u", "v"], periodic="width")
    check_comparable([found, other])
    assert other.drawn["images_digest"] != found.drawn["images_digest"]
    for changes in (dict(periodic=BOTH), dict(weights=[1, 2, 3, 4] * 2)):
        with pytest.raises(ValueError, match="do not compare"):
            check_comparable([found, measure_fields([(x, y)], ["u", "v"], **{"periodic": "width"} | changes)])


def test_samples_that_are_no_ensembles_have_spectra_and_values_alone():
    found = measure_fields([(normal(6, 8, 8, 1), normal(4, 8, 8, 1, seed=1))], ["t"])
    assert set(found.metrics) == {"log_spectral_distance_t", "wasserstein_t"}


X, Y = normal(2, 3, 4, 4, 2), normal(2, 4, 4, 2)


@pytest.mark.parametrize(
    "calls, options, message",
    [
        ([(X[:, :1], Y)], {}, "at least 2 members, got 1"),
        ([(X, Y[..., :1])], {}, "as many pixels and channels"),
        ([(X, Y[:, :2])], {}, "as many pixels and channels"),
        ([(X[:1], Y)], {}, "of the same shape"),
        ([(X, Y), (X[:, :2], Y)], {}, "of one size, got 3 members and then 2"),
        ([(X, Y), (X[:, 0], Y)], {}, "all ensembles or none"),
        ([(X, Y)], {"names": ["u"]}, "2 channels need as many different names, got u"),
        ([(X, Y)], {"weights": [1.0, 2.0]}, r"Weights must be finite numbers \[4\]"),
        ([(X, Y)], {"weights": [1.0, 2.0, -1.0, 1.0]}, "not below 0"),
        ([(X, Y)], {"periodic": ("depth",)}, "periodic along some of"),
        ([(X * np.nan, Y)], {}, "must be finite"),
        ([], {}, "no fields to measure"),
    ],
)
def test_wrong_input(calls, options, message):
    with pytest.raises(ValueError, match=message):
        measure_fields(calls, **options)


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no ensembles"):
        EnsembleScores().scores()


def test_axes_that_are_none_are_refused_before_fields_are_drawn():
    with pytest.raises(ValueError, match="periodic along some of"):
        FieldScores(periodic="longitude")
