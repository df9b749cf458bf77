"""Threefry-2x32-20 against its published answers and jax's own; the draws against their distributions."""

import numpy as np
import pytest
from helpers import keys, only_on_jax, run, to_numpy
from keras import ops
from scipy import stats

from keras_sid2 import threefry

# Random123's kat_vectors, "threefry 2 32 20": counter, key, result.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(values):
    """uint32 values as the int32 tensor of the same bits."""
    return ops.convert_to_tensor(np.asarray(values, "uint32").view("int32"))


def unsigned(tensor):
    return to_numpy(tensor).view("uint32")


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_threefry_gives_the_published_answers(counter, key, expected):
    result = threefry.threefry2x32(*(words([w]) for w in (*key, *counter)))
    assert tuple(int(unsigned(w)[0]) for w in result) == expected


@only_on_jax
def test_threefry_is_jax_s_own_on_random_words():
    from jax.extend.random import threefry_2x32

    rng = np.random.default_rng(1)
    key0, key1 = rng.integers(0, 2**32, size=2, dtype="uint32")
    counters = rng.integers(0, 2**32, size=(2, 1000), dtype="uint32")
    theirs = threefry_2x32(np.array([key0, key1]), counters.ravel())  # first half x0, second half x1
    ours = threefry.threefry2x32(words(key0), words(key1), words(counters[0]), words(counters[1]))
    np.testing.assert_array_equal(np.concatenate([unsigned(w) for w in ours]), np.asarray(theirs))


def normals(key, *shape):
    return run(lambda key: threefry.normal(key, shape), key).astype("float64")


def test_uniform_is_uniform():
    draws = run(lambda key: threefry.uniform(key, (200_001,)), threefry.key(0))
    assert draws.dtype == "float32" and 0.0 < draws.min() and draws.max() <= 1.0
    assert stats.kstest(draws, "uniform").pvalue > 0.01
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / draws.size)


def test_normal_is_normal():
    draws = normals(threefry.key(0), 200_001)
    assert stats.kstest(draws, "norm").pvalue > 0.01
    error = 1 / np.sqrt(draws.size)  # of the first moment; of the next: sqrt 2, sqrt 15, sqrt 96 of it
    assert abs(draws.mean()) < 4 * error
    assert abs((draws**2).mean() - 1) < 4 * 2**0.5 * error
    assert abs((draws**3).mean()) < 4 * 15**0.5 * error
    assert abs((draws**4).mean() - 3) < 4 * 96**0.5 * error


def test_the_two_halves_of_box_muller_are_independent():
    first, second = np.split(normals(threefry.key(3), 100_000), 2)
    limit = 4.5 / np.sqrt(first.size)
    assert abs((first * second).mean()) < limit
    assert abs(((first**2 - 1) * (second**2 - 1)).mean()) < 2 * limit  # factors of std sqrt 2


STREAMS = {
    "seeds": lambda: [threefry.key(seed) for seed in (0, 1, 2, 2**31, 2**32 - 1)],
    "streams of a seed": lambda: [threefry.key(7, stream) for stream in (0, 1, 2, 3, 2**32 - 1)],
    "steps": lambda: [threefry.fold_in(threefry.key(7), step) for step in (0, 1, 2, 2**31 - 1)],
    "examples": lambda: keys(4),
    "kinds of draw": lambda: [threefry.fold_in(threefry.key(7), 5, kind) for kind in range(4)],
}


@pytest.mark.parametrize("what", STREAMS)
def test_neighbouring_draws_are_uncorrelated(what):
    draws = normals(ops.stack(list(STREAMS[what]())), 20_000)
    correlation = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(draws.shape[1])


def test_draws_of_neighbouring_indices_are_uncorrelated():
    draws = run(lambda key: threefry.normal(key, (20_000,), index=np.arange(4)), threefry.key(0))
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 4.5 / np.sqrt(draws.shape[1])


def test_many_indices_in_one_call_are_many_calls():
    key, indices = threefry.key(3), np.int32([0, 4, 2**31 - 1])
    for draw in (threefry.uniform, threefry.normal):
        together = run(lambda key, draw=draw: draw(key, (2, 2), index=indices), key)
        one_by_one = [run(lambda key, i, draw=draw: draw(key, (2, 2), index=i), key, i) for i in indices]
        np.testing.assert_allclose(together, one_by_one, atol=1e-6)
    together = run(lambda key: threefry.fold_in(key, indices, indices), key)
    np.testing.assert_array_equal(together, [to_numpy(threefry.fold_in(key, int(i), int(i))) for i in indices])


def test_a_stream_is_no_shift_of_another():
    draws = normals(ops.stack([threefry.key(0), threefry.key(1)]), 64)
    assert not set(draws[0]) & set(draws[1])


def test_an_example_s_draw_does_not_depend_on_the_batch():
    def draw(examples):
        return threefry.normal(threefry.fold_in(threefry.key(0), examples), (3, 3, 1), index=5)

    whole = run(draw, np.arange(64))
    for part in (np.arange(7), np.arange(41, 42)):  # a sine's last bit may differ with its lane
        np.testing.assert_allclose(run(draw, part), whole[part], rtol=0, atol=1e-6)


def test_equal_keys_give_equal_draws():
    draws = [normals(threefry.fold_in(threefry.key(5), 9), 8) for _ in range(2)]
    np.testing.assert_array_equal(*draws)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7, 1), (2, 2, 2)])
def test_any_size_for_any_batch_of_keys(shape):
    def both(key):
        draws = [draw(key, shape) for draw in (threefry.uniform, threefry.normal)]
        assert all(tuple(draw.shape) == (2, 3, *shape) for draw in draws)
        return ops.stack(draws)

    draws = run(both, ops.stack([keys(3), keys(3, seed=1)]))
    assert len(np.unique(draws)) == draws.size


def test_a_single_key_gives_a_single_draw():
    assert normals(threefry.key(0)).shape == ()
    assert normals(threefry.key(0), 5).shape == (5,)


@pytest.mark.parametrize("seed", [-1, 2**32, True, 1.5, "a", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer in \[0, 2\*\*32\), got"):
        threefry.key(seed)


def test_a_seed_may_be_a_numpy_integer():
    np.testing.assert_array_equal(to_numpy(threefry.key(np.int64(2**31 + 3))), to_numpy(threefry.key(2**31 + 3)))


def test_every_backend_draws_the_same_normals():
    """The numbers come from Python integers and float64, by the equations at the top of the module."""
    golden = [-0.620765, -0.294421, -0.548347, -0.325009, 1.331923, -0.759386, -0.12071]
    draws = run(lambda key: threefry.normal(key, (7,), index=5), threefry.fold_in(threefry.key(4_000_000_042, 7), 3, 9))
    np.testing.assert_allclose(draws, golden, atol=1e-5)
