"""What several processes measure of their parts is what one measures of all; here each is a thread."""

import concurrent.futures
import threading

import numpy as np
import pytest
from plain_features import IMAGES, PLAIN, batches, reference

from keras_sid2.evaluation import evaluate, gathering
from keras_sid2.parallel import processes

pytestmark = pytest.mark.backend_free
COUNT = 3


@pytest.fixture
def together(monkeypatch):
    """Runs a function in COUNT threads that are to one another as processes; their results, or what they raised."""
    here, barrier, given = threading.local(), threading.Barrier(COUNT, timeout=60), [0] * COUNT

    def added(value):
        given[here.index] = value
        barrier.wait()
        total = sum(given)
        barrier.wait()
        return total

    def run(function):
        def in_one(index):
            here.index = index
            try:
                return function()
            except Exception as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
            return list(pool.map(in_one, range(COUNT)))

    for name, changed in (("count", lambda: COUNT), ("index", lambda: here.index)):
        monkeypatch.setattr(processes, name, changed)
    for name in ("summed", "_sum_of_arrays"):
        monkeypatch.setattr(processes, name, added)
    monkeypatch.setattr(processes, "_AT_ONCE", 1000)  # so that one message is sent in pieces
    monkeypatch.setattr(gathering, "_AT_ONCE", 64)  # and a part in several messages
    return run


@pytest.mark.parametrize("agree", [False, True])
def test_shared_images_are_measured_to_the_bit_as_those_of_one(together, agree):
    real = reference(IMAGES[::-1])
    one = evaluate(batches(IMAGES, 8), features=PLAIN, reference=real, capacity=120)

    def measured():
        first, last = processes.share(len(IMAGES), 8)
        own = real if processes.index() == 0 else None
        kept = {"features": PLAIN, "reference": own, "capacity": 120}
        return evaluate(batches(IMAGES[first:last], 8), shared=True, agree=agree, **kept)

    assert together(measured) == [one, None, None]


def test_where_one_fails_all_raise_and_may_go_on(together):
    def failing():
        if processes.index() == 1:
            raise FloatingPointError("image 7 became NaN")
        yield from gathering.found_in(PLAIN, batches(IMAGES[:9], 4))

    def measured():
        return gathering.agreed(failing())

    others, failed, _ = found = together(measured)
    assert isinstance(failed, FloatingPointError) and isinstance(others, RuntimeError)
    assert "another process could not measure its images" in str(found[2])
    assert together(lambda: processes.summed(1)) == [COUNT] * COUNT


def test_bytes_of_one_arrive_in_all(together):
    sent = np.random.default_rng(0).bytes(9001)
    assert together(lambda: processes.bytes_from(2, sent if processes.index() == 2 else b"")) == [sent] * COUNT
    assert together(lambda: processes.bytes_from(0)) == [b""] * COUNT
