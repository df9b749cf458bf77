"""The meter shows what the consumer waits for. Bounds are loose: the machine may be busy."""

import time

import pytest

import pipelines

pytestmark = pytest.mark.backend_free


def slow_source(number, seconds):
    """`number` elements, each of which takes `seconds` to make, one at a time."""
    import tensorflow as tf

    def produce(index):
        time.sleep(seconds)
        return index

    return tf.data.Dataset.range(number).map(
        lambda index: tf.ensure_shape(tf.numpy_function(produce, [index], tf.int64), ())
    )


def consume(dataset, seconds=0.0):
    """Iterates from Python; returns the time blocked in `next`, as the consumer sees it."""
    iterator, waited = iter(dataset), 0.0
    while True:
        start = time.perf_counter()
        if next(iterator, None) is None:
            return waited
        waited += time.perf_counter() - start
        time.sleep(seconds)


def test_fast_consumer_waits_for_the_source():
    dataset, meter = pipelines.measure_wait(slow_source(10, 0.05))
    waited = consume(dataset)
    metered = meter.take()
    assert 0.5 <= metered <= waited + 0.05
    assert meter.take() == 0.0


def test_consumer_inside_a_compiled_function():
    import tensorflow as tf

    dataset, meter = pipelines.measure_wait(slow_source(10, 0.05))

    @tf.function
    def total(dataset):
        result = tf.constant(0, tf.int64)
        for element in dataset:
            result += element
        return result

    start = time.perf_counter()
    assert total(dataset) == 45
    assert 0.5 <= meter.take() <= time.perf_counter() - start + 0.05


def test_slow_consumer_still_waits_without_prefetch():
    # Were a prefetch put between source and meter, the consumer's own time would hide the source from it.
    dataset, meter = pipelines.measure_wait(slow_source(10, 0.05))
    waited = consume(dataset, 0.06)
    assert 0.5 <= meter.take() <= waited + 0.05


def test_prefetch_hides_the_source_from_a_slow_consumer():
    dataset, meter = pipelines.measure_wait(slow_source(12, 0.02).prefetch(2))
    waited = consume(dataset, 0.08)
    metered = meter.take()
    assert metered <= waited + 0.05
    assert metered < 0.12  # the source takes 0.24 in all; of it only the first element cannot be hidden


def test_parts_are_asked_in_order_and_one_at_a_time():
    """Nothing is asked of the source before the consumer asks: no part of the pipeline runs ahead."""
    import tensorflow as tf

    asked = []

    def produce(index):
        asked.append(int(index))
        return index

    source = tf.data.Dataset.range(6).map(
        lambda index: tf.ensure_shape(tf.numpy_function(produce, [index], tf.int64), ())
    )
    dataset, _ = pipelines.measure_wait(source)
    iterator = iter(dataset)
    time.sleep(0.2)
    for number in range(6):
        assert asked == list(range(number))
        assert int(next(iterator)) == number
        time.sleep(0.05)


def test_everything_else_stays(data_dir):
    arguments = {"data_dir": data_dir, "batch_size": 64, "training": False}
    plain = pipelines.make_dataset("digits", **arguments)
    metered, _ = pipelines.measure_wait(plain)
    assert metered.element_spec == plain.element_spec
    assert metered.cardinality() == plain.cardinality()
    for batch, expected in zip(metered, plain, strict=True):
        assert (batch["image"].numpy() == expected["image"].numpy()).all()
    stream = pipelines.make_dataset("digits", data_dir=data_dir, batch_size=64)
    assert pipelines.measure_wait(stream)[0].cardinality() == stream.cardinality()


def test_meter_counts_no_negative_wait():
    meter = pipelines.WaitMeter()
    meter.add(2.0)
    meter.add(-1.0)
    assert meter.take() == 2.0


def test_wrong_type():
    with pytest.raises(ValueError, match="measure_wait takes a tf.data.Dataset, got list"):
        pipelines.measure_wait([1, 2])
