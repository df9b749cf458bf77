"""Would the tests on exact denoisers see a wrong sampler? Each mutant is the library's source, changed in one place."""

import inspect
import types

import keras
import numpy as np
import pytest
import test_exact_denoisers as exactly
import test_known as known_tests
import test_noise_levels as grid_tests
import test_samplers as step_tests
from exact_data import MIXTURE, S, moments_after

from keras_sid2.diffusion import CosineSchedule, gaussian, guidance
from keras_sid2.sampling import denoisers, loop, noise_levels, samplers, uniform_t

pytestmark = pytest.mark.backend_free


def mutated(module, old: str, new: str) -> types.ModuleType:
    """`module` made anew from its source with `old`, which must be there once, replaced."""
    source = inspect.getsource(module)
    assert source.count(old) == 1, (old, source.count(old))
    mutant = types.ModuleType(f"mutant_of_{module.__name__.rsplit('.', 1)[1]}")
    exec(compile(source.replace(old, new), f"<{mutant.__name__}>", "exec"), mutant.__dict__)
    return mutant


@pytest.fixture(autouse=True)
def registry():
    """A mutant's classes register under the names of the originals; these come back afterwards."""
    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


# What a correct sampler passes; the same functions and numbers as in the tests they come from.


def ends_right(sampler, num_steps=128) -> bool:
    return exactly.deviations(exactly.drawn(sampler, num_steps, MIXTURE.denoise), MIXTURE).max() < 4.5


def has_order(sampler, expected, grid=noise_levels.uniform_logsnr) -> bool:
    return abs(exactly.order(sampler, MIXTURE, grid=grid) - expected) < 0.2


def encloses(module) -> bool:
    logsnr = uniform_t(CosineSchedule(), 64)
    low, high = (moments_after(module.DDPMSampler(variance), logsnr)[1] for variance in (0.0, 1.0))
    return low < S < high


def passes(test, *arguments) -> bool:
    try:
        test(*arguments)
    except AssertionError:
        return False
    return True


CHECKS = {
    "ddpm ends right": lambda m: ends_right(m.DDPMSampler(), 512),
    "ddim ends right": lambda m: ends_right(m.DDIMSampler()),
    "ddim with eta ends right": lambda m: ends_right(m.DDIMSampler(0.8), 512),
    "heun ends right": lambda m: ends_right(m.HeunSampler(), 64),
    "edm's heun is of order 2": lambda m: has_order(m.EDMHeunSampler(), 2),
    "edm's heun ends right": lambda m: ends_right(m.EDMHeunSampler(), 64),
    "edm's heun with churn ends right": lambda m: ends_right(m.EDMHeunSampler(churn=0.3, noise_scale=1.0), 128),
    "2m ends right": lambda m: ends_right(m.DPMSolver2MSampler(), 96),
    "ddim is of order 1": lambda m: has_order(m.DDIMSampler(), 1),
    "heun is of order 2": lambda m: has_order(m.HeunSampler(), 2),
    "2m is of order 2": lambda m: has_order(m.DPMSolver2MSampler(), 2),
    "2m is of order 2 where steps differ": lambda m: has_order(m.DPMSolver2MSampler(), 2, exactly.uneven_grid),
    "2m extrapolates over the ratio of its steps": lambda m: passes(
        step_tests.test_2m_extrapolates_over_the_ratio_of_its_two_steps, m.DPMSolver2MSampler()
    ),
    "the bounds enclose": encloses,
}

# (old, new, the check that sees it), all in samplers.py.
STEPS = {
    "flow: alpha of t for that of s": (
        "return alpha_s * x + sigma_s /",
        "return alpha_t * x + sigma_s /",
        "ddim ends right",
    ),
    "flow: sigma upside down": ("sigma_s / sigma_t * (z_t", "sigma_t / sigma_s * (z_t", "ddim ends right"),
    "flow: sign": (
        "sigma_s / sigma_t * (z_t - alpha_t * x)",
        "sigma_s / sigma_t * (z_t + alpha_t * x)",
        "ddim ends right",
    ),
    "ddpm: bounds swapped": (
        "lower ** (1.0 - self.variance) * upper**self.variance",
        "upper ** (1.0 - self.variance) * lower**self.variance",
        "the bounds enclose",
    ),
    "ddpm: deviation for variance": ("ops.sqrt(lower **", "(lower **", "ddpm ends right"),
    "ddim: eta without c": ("1.0 - self.eta**2 * c", "1.0 - self.eta**2", "ddim with eta ends right"),
    "ddim: variance for deviation": ("ops.sqrt(c) * noise()", "c * noise()", "ddim with eta ends right"),
    "heun: the end alone": ("0.5 * (x_hat + x_hat_s)", "x_hat_s", "heun is of order 2"),
    "heun: the start twice": ("denoise(flow(x=x_hat, **levels),", "denoise(z_t,", "heun is of order 2"),
    "heun: noise level of the start": ("**levels), logsnr_s)", "**levels), logsnr_t)", "heun is of order 2"),
    "edm's heun: the end alone": ("0.5 * (sigma_s - alpha_s", "1.0 * (sigma_s - alpha_s", "edm's heun is of order 2"),
    "edm's heun: sign": ("* (eps_s - eps_t)", "* (eps_t - eps_s)", "edm's heun is of order 2"),
    "edm's heun: no second estimate": ("* (eps_s - eps_t)", "* (eps_t - eps_t)", "edm's heun is of order 2"),
    "edm's heun: noise level of the start": (
        "denoise(z_s, logsnr_s)",
        "denoise(z_s, logsnr_t)",
        "edm's heun is of order 2",
    ),
    "edm's heun: sigma for sigma over alpha": (
        "(sigma_s - alpha_s * sigma_t / alpha_t)",
        "(sigma_s - sigma_t)",
        "edm's heun is of order 2",
    ),
    "churn: a level that is not raised": (
        "return alpha_u / alpha_t * z_t + added * noise, logsnr_u",
        "return alpha_u / alpha_t * z_t + added * noise, logsnr_t",
        "edm's heun with churn ends right",
    ),
    "churn: no noise": ("+ added * noise", "+ 0.0 * noise", "edm's heun with churn ends right"),
    "churn: variance for deviation": (
        "sigma_u * ops.sqrt(-ops.expm1(logsnr_u - logsnr_t))",
        "sigma_u * -ops.expm1(logsnr_u - logsnr_t)",
        "edm's heun with churn ends right",
    ),
    "churn: the signal as it was": ("return alpha_u / alpha_t * z_t", "return z_t", "edm's heun with churn ends right"),
    "2m: no ratio of steps": (
        "0.5 * h / ops.where(first, 1.0, h_before)",
        "0.5",
        "2m is of order 2 where steps differ",
    ),
    "2m: the ratio upside down": (  # whose errors cancel over a cycle of steps
        "0.5 * h / ops.where(first, 1.0, h_before)",
        "0.5 * h_before / h",
        "2m extrapolates over the ratio of its steps",
    ),
    "2m: no half": ("0.5 * h /", "h /", "2m is of order 2"),
    "2m: sign": ("x = x_hat + ahead", "x = x_hat - ahead", "2m is of order 2"),
    "2m: the estimate before alone": ("ahead * (x_hat - x_hat_before)", "(x_hat_before - x_hat)", "2m is of order 2"),
}


@pytest.mark.parametrize("old, new, check", STEPS.values(), ids=STEPS)
def test_a_wrong_step_is_seen(old, new, check):
    assert not CHECKS[check](mutated(samplers, old, new))


@pytest.mark.parametrize("check", CHECKS)
def test_the_checks_pass_what_is_right(check):
    assert CHECKS[check](samplers)


POSTERIORS = {
    "alpha of t for that of s": ("mean = alpha_s * (z_t", "mean = alpha_t * (z_t"),
    "alpha upside down": ("(1.0 - c) / alpha_t + c", "(1.0 - c) * alpha_t + c"),
    "c for 1 - c": ("z_t * (1.0 - c) /", "z_t * c /"),
    "sigma of t in the lower bound": ("ops.square(sigma_s) * c, ops.square(sigma_t) * c", "sigma_t * c, sigma_t * c"),
}


@pytest.mark.parametrize("old, new", POSTERIORS.values(), ids=POSTERIORS)
def test_a_wrong_posterior_is_seen(monkeypatch, old, new):
    monkeypatch.setattr(samplers, "posterior", mutated(gaussian, old, new).posterior)
    assert not CHECKS["ddpm ends right"](samplers)


LOOPS = {
    "noise of the start in every step": ("index=i + 1)", "index=0)", "ddpm ends right"),
    "noise level of the next step": (
        "denoise(z, ops.broadcast_to(logsnr,",
        "denoise(z, ops.broadcast_to(self.logsnr[i + 1],",
        "2m is of order 2",
    ),
    "no history": (
        "self._once(denoise, i, self._with_history(i, state), self.keys)",
        "self._once(denoise, i, self._without_history(state), self.keys)",
        "2m is of order 2",
    ),
}


@pytest.mark.parametrize("old, new, check", LOOPS.values(), ids=LOOPS)
def test_a_wrong_loop_is_seen(monkeypatch, old, new, check):
    monkeypatch.setattr(exactly, "SamplingLoop", mutated(loop, old, new).SamplingLoop)
    assert not CHECKS[check](samplers)


@pytest.mark.parametrize(
    "old, new",
    [
        ("mean, lower, _ = posterior", "mean, _, lower = posterior"),
        ("diffuse(x=x, eps=noise, logsnr=self.logsnr[0]), z_t", "x, z_t"),
        ("return ops.where(self.known[1], known, z)", "return ops.where(self.known[1], self.known[0], z)"),
    ],
)
def test_a_wrong_noise_level_of_known_pixels_is_seen(monkeypatch, old, new):
    monkeypatch.setattr(known_tests, "SamplingLoop", mutated(loop, old, new).SamplingLoop)
    test = known_tests.test_known_pixels_carry_the_noise_of_their_level_at_every_step_and_come_back
    assert not passes(test, samplers.DDPMSampler(0.7))


RETURNED = {
    "heun: the estimate at the step's start is returned": (
        "return z_s, x_hat, carry\n\n    def _known_at",
        "return z_s, denoise(z_t, ops.broadcast_to(self.logsnr[i], (keys.shape[0],))), carry\n\n    def _known_at",
        lambda: exactly.test_the_image_that_heun_returns_is_of_second_order_on_the_paper_s_grid(MIXTURE),
    ),
    "heun: nothing is known at the step's end": (
        "z = z if self.known is None else self._replaced(z, self._known_at(*first[0], logsnr))",
        "pass",
        lambda: exactly.test_known_pixels_leave_the_order_as_it_is(samplers.HeunSampler(), 2),
    ),
    "repeats have the noise of the first pass": (
        "keys = threefry.fold_in(threefry.fold_in(self.keys, _REPEATS, _REPEATS), repeat, i)",
        "keys = self.keys",
        known_tests.test_every_repeat_of_every_step_has_noise_of_its_own,
    ),
    "all repeats have the same noise": (
        "threefry.fold_in(threefry.fold_in(self.keys, _REPEATS, _REPEATS), repeat, i)",
        "threefry.fold_in(threefry.fold_in(self.keys, _REPEATS, _REPEATS), 0, i)",
        known_tests.test_every_repeat_of_every_step_has_noise_of_its_own,
    ),
}


@pytest.mark.parametrize("old, new, test", RETURNED.values(), ids=RETURNED)
def test_a_wrong_end_of_a_step_is_seen(monkeypatch, old, new, test):
    for tests in (exactly, known_tests):
        monkeypatch.setattr(tests, "SamplingLoop", mutated(loop, old, new).SamplingLoop)
    assert not passes(test)


@pytest.mark.parametrize(
    "old, new",
    [
        ("x_base + scale * (x_cond - x_base)", "x_cond + scale * (x_cond - x_base)"),
        ("(x_cond - x_base)", "(x_base - x_cond)"),
    ],
    ids=["one too strong", "sign"],
)
def test_wrong_guidance_is_seen(monkeypatch, old, new):
    source = inspect.getsource(guidance.guide).split('"""')[2]
    assert old in source
    mutant = {}
    exec(f"def guide(x_cond, x_base, scale):\n{source.replace(old, new)}", mutant)
    monkeypatch.setattr(denoisers, "guide", mutant["guide"])
    assert not passes(exactly.test_a_guided_mixture_is_the_tilted_one, samplers.DDIMSampler(), 128)


@pytest.mark.parametrize(
    "old, new, test",
    [
        ("np.linspace(t_start, 0.0, num_steps", "np.linspace(1.0, 0.0, num_steps", "test_steps_are_uniform_in_t"),
        ("np.exp(-0.5 * end / rho)", "np.exp(-end / rho)", "test_edm_s_grid_is_its_equation_5"),
        ("-2.0 * rho * np.log", "-rho * np.log", "test_edm_s_grid_is_its_equation_5"),
    ],
)
def test_a_wrong_grid_is_seen(monkeypatch, old, new, test):
    mutant = mutated(noise_levels, old, new)
    for name in ("uniform_t", "edm_rho"):
        monkeypatch.setattr(grid_tests, name, getattr(mutant, name))
    arguments = [CosineSchedule()] if test == "test_steps_are_uniform_in_t" else []
    assert not passes(getattr(grid_tests, test), *arguments)


def test_a_mutant_is_a_mutant():
    with pytest.raises(AssertionError):
        mutated(samplers, "no such text", "")
    assert np.isfinite(mutated(samplers, '"""Eq. (1)."""', '"""Eq. 1."""').DDPMSampler().variance)
