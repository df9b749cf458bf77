"""Quantiles of Student's t against a printed table and scipy's."""

import pytest
from scipy import stats

from keras_sid2.evaluation.student import quantile

pytestmark = pytest.mark.backend_free


def test_a_printed_table():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}
    assert {degrees: round(quantile(degrees), 3) for degrees in table} == table


@pytest.mark.parametrize("inside", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 5, 8, 19, 100])
def test_scipy_has_the_same(degrees, inside):
    assert quantile(degrees, inside) == pytest.approx(stats.t.ppf((1 + inside) / 2, degrees), rel=1e-12)
