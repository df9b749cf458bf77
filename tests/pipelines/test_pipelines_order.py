"""The order of examples: a function of (seed, position), the same for every format, reader and number of processes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipelines
from pipelines.reading import order

pytestmark = pytest.mark.backend_free

N = 1617
# Made with numpy's Philox directly: sorting its raw bits, and block 3 of its counter.
PINNED_ORDER = [6, 7, 8, 4, 0, 1, 5, 3, 9, 2]
PINNED_DRAWS = [0.5853472269512391, 0.9193468552117282, 0.006853370908244267, 0.5563223966133252]


def test_permutations():
    first = order.permutation(3, 0, 1000)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    for other in (order.permutation(3, 1, 1000), order.permutation(4, 0, 1000), np.arange(1000)):
        assert np.mean(first == other) < 0.02  # 1 in 1000 by chance


def test_permutations_are_uniform():
    """Each of 5! orders equally often: chi-squared with 119 degrees of freedom, below 170 in 99.8 % of cases."""
    counts = {}
    for epoch in range(12000):
        key = tuple(order.permutation(0, epoch, 5))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 120
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 170


def test_draws_do_not_depend_on_where_one_starts():
    whole = order.uniforms(5, 0, 100)
    assert whole.min() >= 0 and whole.max() < 1 and len(np.unique(whole)) == 400
    np.testing.assert_array_equal(order.uniforms(5, 37, 20), whole[37:57])
    assert abs(order.uniforms(5, 10**12, 20000).mean() - 0.5) < 0.01  # 5 standard deviations are 0.005


def test_order_is_pinned():
    """A change here would make every run that is resumed go on with other data: it is a change of the format."""
    np.testing.assert_array_equal(order.permutation(7, 2, 10), PINNED_ORDER)
    np.testing.assert_allclose(order.uniforms(7, 3, 1)[0], PINNED_DRAWS, atol=1e-12)


def labels(directory, steps, grain=False, **arguments):
    make = pipelines.make_grain_dataset if grain else pipelines.make_dataset
    arguments = {"batch_size": 50, "seed": 3, "flip": True} | arguments
    batches = itertools.islice(iter(make(directory / "digits", **arguments)), steps)
    return [(np.asarray(batch["label"]), np.asarray(batch["image"])) for batch in batches]


def assert_same(some, others):
    assert len(some) == len(others)
    for (label, image), (other_label, other_image) in zip(some, others, strict=True):
        np.testing.assert_array_equal(label, other_label)
        np.testing.assert_array_equal(image, other_image)


def test_same_order_for_both_formats_and_both_readers(data_dir, array_record_dir):
    expected = labels(data_dir, 40)
    assert_same(labels(array_record_dir, 40), expected)
    assert_same(labels(data_dir, 40, grain=True), expected)
    assert_same(labels(array_record_dir, 40, grain=True), expected)


@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_processes_share_the_global_batches(process_count, data_dir):
    """Together they see what one process with the batch of all sees, and over an epoch each example once."""
    size = 60 // process_count
    parts = [
        labels(data_dir, 30, batch_size=size, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    together = [tuple(np.concatenate(rows) for rows in zip(*step, strict=True)) for step in zip(*parts, strict=True)]
    assert_same(together, labels(data_dir, 30, batch_size=60))


@pytest.mark.parametrize("process_count", [1, 2, 3])
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_each_epoch_holds_each_example_once(process_count, file_format, data_dir, array_record_dir):
    directory = {"tfrecord": data_dir, "array_record": array_record_dir}[file_format]
    batch = 49  # 33 batches of 49 are one epoch
    parts = [
        labels(directory, 33, grain=True, batch_size=batch, process_index=i, process_count=process_count, flip=False)
        for i in range(process_count)
    ]
    # Over process_count epochs' worth of positions, rows of all processes in order of position.
    rows = [image.tobytes() for step in zip(*parts, strict=True) for _, images in step for image in images]
    stored = sorted(
        image.tobytes()
        for _, images in labels(directory, None, grain=True, training=False, flip=False)
        for image in images
    )
    for epoch in range(process_count):
        assert sorted(rows[epoch * N : (epoch + 1) * N]) == stored


@given(data=st.data())
@settings(max_examples=25)
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_start_step_equals_skipping(file_format, data, data_dir, array_record_dir):
    """For random steps, over epochs, for 1, 2 and 3 processes."""
    directory = {"tfrecord": data_dir, "array_record": array_record_dir}[file_format]
    count = data.draw(st.integers(1, 3))
    arguments = {
        "process_index": data.draw(st.integers(0, count - 1)),
        "process_count": count,
        "batch_size": data.draw(st.integers(1, 200)),
        "seed": data.draw(st.integers(0, 2**63 - 1)),
        "grain": True,
    }
    step = data.draw(st.integers(0, 3 * N // (arguments["batch_size"] * count)))
    skipped = min(step, 40)  # what lies before need not be read from the very start
    before = labels(directory, skipped + 2, start_step=step - skipped, **arguments)
    assert_same(labels(directory, 2, start_step=step, **arguments), before[skipped:])


@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_start_step_through_tf_data(process_count, data_dir, array_record_dir):
    for directory in (data_dir, array_record_dir):
        arguments = {"process_index": process_count - 1, "process_count": process_count}
        whole = labels(directory, 1 + 69 // process_count, **arguments)
        for step in (1, 17, 69 // process_count):
            assert_same(labels(directory, 1, start_step=step, **arguments), whole[step : step + 1])


@pytest.mark.parametrize("process_count", [1, 2, 3, 7])
def test_one_pass_is_shared_out(process_count, data_dir):
    parts = [
        labels(data_dir, None, training=False, flip=False, process_index=i, process_count=process_count)
        for i in range(process_count)
    ]
    rows = np.concatenate([label for part in parts for label, _ in part])
    np.testing.assert_array_equal(
        rows, np.concatenate([label for label, _ in labels(data_dir, None, training=False, flip=False)])
    )
    lengths = [sum(len(label) for label, _ in part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
