"""The same features give what torch-fidelity makes of them."""

import sys

import numpy as np
import pytest
import torch_fidelity_parts

from keras_sid2.evaluation import frechet_distance, inception_score, kernel_distance, precision_recall

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(torch_fidelity_parts.MISSING, reason=torch_fidelity_parts.REASON),
]


def features(count, width=128, seed=0):
    """As a network's: float32, not below 0, correlated."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, width)) @ np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return np.maximum(mixed + 0.3 + 0.1 * seed, 0.0).astype("float32")


def tensors(*arrays):
    import torch

    return [torch.from_numpy(array) for array in arrays]


def test_frechet_distance():
    fid = torch_fidelity_parts.load("metric_fid")
    ours, real = features(400), features(500, seed=1)
    theirs = [fid.fid_features_to_statistics(t) for t in tensors(ours.astype("float64"), real.astype("float64"))]
    expected = fid.fid_statistics_to_metric(*theirs, verbose=False)[fid.KEY_METRIC_FID]
    assert frechet_distance(ours, real) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("options", [{"subsets": 3}, {"subset_size": 100}, {"subset_size": 300, "seed": 5}])
def test_kernel_distance(options):
    kid = torch_fidelity_parts.load("metric_kid")
    names = {"subsets": "kid_subsets", "subset_size": "kid_subset_size", "seed": "rng_seed"}
    ours, real = features(1100, 64), features(1300, 64, seed=1)
    expected = kid.kid_features_to_metric(
        *tensors(ours.astype("float64"), real.astype("float64")),
        verbose=False,
        **{names[name]: value for name, value in options.items()},
    )
    wanted = (expected[kid.KEY_METRIC_KID_MEAN], expected[kid.KEY_METRIC_KID_STD])
    assert kernel_distance(ours, real, **options) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"splits": 3, "seed": 5}])
def test_inception_score(options):
    isc = torch_fidelity_parts.load("metric_isc")
    logits = 3.0 * np.random.default_rng(0).normal(size=(1003, 50)).astype("float32")
    names = {"splits": "splits", "seed": "rng_seed"}
    expected = isc.isc_features_to_metric(*tensors(logits), **{names[name]: value for name, value in options.items()})
    wanted = (expected[isc.KEY_METRIC_ISC_MEAN], expected[isc.KEY_METRIC_ISC_STD])
    assert inception_score(logits, **options) == pytest.approx(wanted, rel=1e-9)


def test_precision_and_recall():
    prc = torch_fidelity_parts.load("metric_prc")
    ours, real = features(1200, 16, seed=2), features(900, 16, seed=1)
    expected = prc.prc_features_to_metric(*tensors(ours, real), verbose=False, save_cpu_ram=False)
    wanted = (expected[prc.KEY_METRIC_PRECISION], expected[prc.KEY_METRIC_RECALL])
    assert all(0.05 < value < 0.95 for value in wanted)
    assert precision_recall(ours, real) == pytest.approx(wanted, rel=1e-6)


def test_loading_leaves_no_trace():
    torch_fidelity_parts.load("metric_prc")
    assert not [name for name in sys.modules if name.split(".")[0] == torch_fidelity_parts.PACKAGE]
