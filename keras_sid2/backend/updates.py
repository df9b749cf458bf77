"""What changes all weights at once: the gradient's norm and bound, a step of Adam, averages. On torch each is one
operation or two for all variables together, and no value travels to the host."""

import math
from collections.abc import Callable, Sequence

from keras import ops

from keras_sid2.backend.platform import name, tf, torch

_FUSED = ("cpu", "cuda")  # devices for which torch has the kernels used below


def dense(gradients: Sequence) -> list:
    """Gradients as plain tensors: tensorflow's of an embedding lists a row once for each lookup of it."""
    if name() != "tensorflow":
        return list(gradients)
    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]


def global_norm(tensors: Sequence):
    """The L2 norm of all `tensors` together, a float32 scalar."""
    if name() == "torch":
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))).float())
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))


def clipped(tensors: Sequence, norm, bound: float | None) -> list:
    """`tensors` of this norm together, scaled so that it is at most `bound` (None: any); zeros if it is not finite."""
    if name() == "torch" and all(t.dtype == torch.float32 for t in tensors):
        scale = torch.clamp(bound / torch.clamp(norm, min=1e-12), max=1.0) if bound else 1.0
        found = torch._foreach_mul(list(tensors), scale)
        # NaN times zero is NaN, and no operation for lists selects: as integers the bits of NaN times zero are zero.
        torch._foreach_mul_([t.view(torch.int32) for t in found], (norm < math.inf).to(torch.int32))
        return found
    finite, nothing = ops.isfinite(norm), ops.zeros(())
    scale = ops.minimum(1.0, bound / ops.maximum(norm, 1e-12)) if bound else 1.0
    return [ops.where(finite, t * ops.cast(scale, t.dtype), ops.cast(nothing, t.dtype)) for t in tensors]


def adam_on_torch(weights, gradients, momentums, velocities, *, rate, step, beta_1, beta_2, epsilon, acts=None) -> bool:
    """The step of Keras's Adam behind `step` others on torch's tensors, in place:

        alpha = rate sqrt(1 - beta_2^(step + 1)) / (1 - beta_1^(step + 1))
        m <- m + (1 - beta_1) (g - m);  v <- v + (1 - beta_2) (g^2 - v);  w <- w - alpha m / (sqrt(v) + epsilon)

    Where the tensor `acts` is 0 nothing changes. False, and nothing is done, on devices and for dtypes for which torch
    has no such kernel.
    """
    if not _fusible(gradients, weights, momentums, velocities):
        return False
    gradients = [g.contiguous() for g in gradients]  # the kernel reads memory as it lies
    count = step.float() + 1.0
    alpha = rate * torch.sqrt(1.0 - torch.pow(beta_2, count)) / (1.0 - torch.pow(beta_1, count))
    never = torch.full((), math.inf, device=alpha.device)  # bias is corrected by 1 - beta^step, which is 1 here
    parts = weights, gradients, momentums, velocities, [], [never] * len(weights)
    constants = {"beta1": beta_1, "beta2": beta_2, "eps": epsilon, "weight_decay": 0.0}
    skipped = None if acts is None else 1.0 - acts  # the kernel's "found_inf", by which a scaled loss leaves a step out
    torch._fused_adam_(*parts, lr=alpha, **constants, amsgrad=False, maximize=False, found_inf=skipped)
    return True


def add_to(variables: Sequence, values: Sequence):
    """variable <- variable + value for each pair, of scalars in float32."""
    if name() == "torch":
        torch._foreach_add_([v.value for v in variables], list(values))
        return
    for variable, value in zip(variables, values, strict=True):
        variable.assign_add(value)


def _fusible(gradients: Sequence, *in_place: Sequence) -> bool:
    """Whether torch's fused optimizers may write to the tensors `in_place`, by these gradients."""
    written = [t for tensors in in_place for t in tensors]
    known = all(t.device.type in _FUSED and t.dtype == torch.float32 for t in (*gradients, *written))
    return known and all(t.is_contiguous() for t in written)


def update_averages(averages: Sequence, variables: Sequence, momentum=None, *, share=None, assign: Callable):
    """average <- momentum average + (1 - momentum) variable, for each pair; assign(averages, values) does it. `share`
    in its place is 1 - momentum, of which a float32 near 1 would leave few digits."""
    if name() != "torch":
        pairs = zip(averages, variables, strict=True)
        if share is not None:
            return assign(averages, [average + share * (variable - average) for average, variable in pairs])
        return assign(averages, [momentum * average + (1.0 - momentum) * variable for average, variable in pairs])
    values, weights = ([v.value for v in group] for group in (averages, variables))
    with torch.no_grad():
        rest = ops.cast(1.0 - momentum if share is None else share, "float32")
        if _fusible((), values, weights):
            # average + (1 - momentum) (weight - average), as a step of gradient descent with a decay of 1
            plain = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "is_first_step": False}
            torch._fused_sgd_(values, weights, [], lr=rest, weight_decay=1.0, maximize=True, **plain)
        else:
            torch._foreach_add_(values, torch._foreach_mul(torch._foreach_sub(weights, values), rest))
