"""Provenance: what a record of a drawing says of its settings."""

import dataclasses
import functools

import numpy as np
import pytest
from training_helpers import tiny_model

from keras_sid2 import DDPMSampler, Guidance, SampleRequest, ScaleCurve
from keras_sid2.generation.provenance import custom_in, named

pytestmark = pytest.mark.backend_free
LABELS = [0, 1, 2]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def closed_over(value):
    return lambda logsnr: 0.0 * logsnr + value


class OwnSampler:
    """A user's sampler that hides its values."""

    def __init__(self, share):
        self.share = share

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise):
        return z_t + self.share * (x_hat - z_t) + 0.0 * noise


def linear_levels(schedule, num_steps, t_start, end=8.0):
    return np.linspace(-8.0, end, num_steps + 1)


@dataclasses.dataclass(frozen=True)
class FrozenSampler(OwnSampler):
    """A frozen configuration of the user's, one of whose values is an array that prints in part only."""

    share: np.ndarray

    __hash__ = object.__hash__


def shares(last):
    return np.append(np.full(2000, 0.1, "float32"), np.float32(last))


CUSTOM = {
    "noise_levels": [dict(noise_levels=functools.partial(linear_levels, end=end)) for end in (7.0, 8.0)],
    "guidance": [dict(guidance=Guidance(closed_over(scale))) for scale in (1.5, 3.0)],
    "sampler": [dict(sampler=OwnSampler(share)) for share in (0.1, 0.2)],
}


@pytest.mark.parametrize("name, pair", CUSTOM.items(), ids=CUSTOM)
def test_what_is_no_frozen_configuration_is_custom_in_a_record(model, name, pair):
    """It is not run to find out what it does, and says that two of a name need not be equal."""
    records = [SampleRequest(model, LABELS, num_steps=8, **options).describe() for options in pair]
    where = {
        "noise_levels": "linear_levels",
        "guidance": "closed_over.<locals>.<lambda> in all",
        "sampler": "OwnSampler",
    }
    assert [record[name] for record in records] == 2 * [f"custom {__name__}.{where[name]}"]
    assert all(custom_in(record) == [name] for record in records)


def test_a_frozen_configuration_in_a_record_has_all_its_values():
    texts = [named(FrozenSampler(shares(last))) for last in (0.1, 0.2, 0.2)]
    assert texts[0] != texts[1] == texts[2] and texts[0].startswith(f"{__name__}.FrozenSampler(share=float32[2001] ")
    curve = ScaleCurve(((-3.0, 1.0), (0.0, 2.5)))
    assert named(curve) == str(curve) and named(DDPMSampler(0.3)) == "DDPMSampler(variance=0.3)"
    assert named(FrozenSampler(closed_over(1.0))).startswith(f"{__name__}.FrozenSampler(share=custom {__name__}.closed")


UNLIKE = {
    "scales that agree in six digits": [dict(guidance=Guidance(scale)) for scale in (1.23456781, 1.23456789)],
    "intervals": [dict(guidance=Guidance(2.0, (-3.0, high))) for high in (5.0, 5.0000001)],
}


@pytest.mark.parametrize("pair", UNLIKE.values(), ids=UNLIKE)
def test_unlike_settings_have_unlike_records_and_like_ones_the_same(model, pair):
    first, again, second = (SampleRequest(model, LABELS, num_steps=8, **pair[i]).describe() for i in (0, 0, 1))
    assert first == again != second
