"""Moments in the space of a teacher's weights phi (Salimans et al., arXiv 2406.04103): no auxiliary network.

At rest E_student[x~ | z_s] is the teacher's x_hat for all that phi can tell apart, which is when nu vanishes. Of the
two halves A and B of a batch, each x~ and z_s of the student:

    (1) nu_A = grad_phi mean_A w(s) |x~ - teacher(z_s)|^2
    (2) pull_B = -J nu_A, J = d teacher(z_s) / d phi at B's z_s, which x~ of B is moved against; and so of A by nu_B
    (3) J nu = (teacher(z_s; phi + h nu) - teacher(z_s; phi - h nu)) / (2 h),  h = RELATIVE_STEP |phi| / |nu|

mean_B w(s) <x~ - teacher(z_s), pull_B> / 2 is |nu|^2 / 4 on average, as the halves are independent given the weights,
and its gradient by x~ is that of the student's loss. Ours are: both halves in both roles, the central difference, for
which no backend needs forward derivatives, and no preconditioner of nu, where the paper is said to have one of the
teacher's second moments in Adam: files of trained models need not have these.
"""

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.parallel import replicas

# Eq. (3), measured on sid2_digits_trained in float32: J nu is off by 1.7e-4 with this step, 1.8e-3 with 1e-3, 0.08 with
# 1e-2, and by rounding, 3e-4, with 1e-6.
RELATIVE_STEP = 3e-4


def pulls(teacher, weights, variables, *, x, given, weight):
    """(pull of Eq. (2), teacher(given)), float32 like x [B, ...], B even; constants.

    teacher(given) is x_hat, with guidance if it has any, and reads `variables`, of which `weights` are phi; x are the
    student's x~ at `given`, the inputs at z_s, and `weight` [B] is w(s). Halves are every other example, as s rises
    through a batch.
    """
    halves = [_half({**given, "moments/x~": x, "moments/weight": weight}, i) for i in range(2)]
    nus = [_moment(teacher, weights, variables, half) for half in halves]
    found = [_forward(teacher, weights, variables, nus[1 - i], halves[i]) for i in range(2)]
    j_nu, x_hat = (ops.reshape(ops.stack(parts, axis=1), ops.shape(x)) for parts in zip(*found, strict=True))
    return ops.stop_gradient(-j_nu), ops.stop_gradient(x_hat)


def _half(values: dict, i: int) -> dict:
    """Every other example; on a mesh each device keeps what it has."""
    apart = {k: ops.reshape(v, (-1, 2, *v.shape[1:])) for k, v in values.items() if k != "seed"}
    return {k: ops.take(v, i, axis=1) for k, v in apart.items()}


def _moment(teacher, weights, variables, half) -> list:
    """Eq. (1), of the halves of all replicas."""

    def loss():
        error = ops.square(half["moments/x~"] - teacher(half))
        return replicas.mean_loss(half["moments/weight"] * ops.mean(error, axis=tuple(range(1, len(error.shape)))))

    return replicas.averaged_gradients(backend.gradients_at(loss, variables, weights))


def _forward(teacher, weights, variables, nu, half):
    """Eq. (3), and the mean of both, which is teacher(half) to h^2."""
    norm = backend.global_norm(nu)
    size = backend.global_norm([ops.stop_gradient(v.value) for v in weights])
    h = RELATIVE_STEP * size / ops.where(norm > 0, norm, 1.0)
    state = {id(v): (v, v.value) for v in variables}
    moved = []
    for sign in (1.0, -1.0):
        at = {id(v): (v, v.value + sign * h * g) for v, g in zip(weights, nu, strict=True)}
        with keras.StatelessScope([*{**state, **at}.values()]):
            moved.append(teacher(half))
    return (moved[0] - moved[1]) / (2.0 * h), (moved[0] + moved[1]) / 2.0
