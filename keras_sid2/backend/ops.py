"""Operations that backends do not share, or that Keras does with copies."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sid2.backend.platform import jax_platform, name, torch


def attention(query, key, value, mask=None):
    """softmax(q k^T / sqrt(d)) v over [B, N, heads, d], not causal, through the backend's fused kernel if any; `mask`,
    bool [B, keys], is true of the keys that count, at least one. On TPU
    keras 3.15's Splash path masks causally and does not scale, for lengths that 128 divides: there XLA's own attention
    is used, and on jax with a mask: cuDNN's takes none that is one row for all queries, and Keras logs a stack trace
    each time. XLA for CPU has no product of float16 summed in float32, which jax asks for: float32 is used.
    On torch Keras copies query, key and value to put heads before positions; torch takes them by other strides."""
    if name() == "torch" and isinstance(query, torch.Tensor) and query.device.type != "meta":  # keras's are symbols
        parts = (part.transpose(1, 2) for part in (query, key, value))
        mask = None if mask is None else mask[:, None, None]
        return _attention_on_torch(*parts, mask).transpose(1, 2)
    platform, dtype = jax_platform(), keras.backend.standardize_dtype(query.dtype)
    if platform == "cpu" and dtype == "float16":
        return ops.cast(attention(*(ops.cast(part, "float32") for part in (query, key, value)), mask), dtype)
    mask = None if mask is None else mask[:, None, None]
    fused = False if platform == "tpu" or (platform and mask is not None) else None
    return ops.dot_product_attention(query, key, value, mask=mask, flash_attention=fused)


_FEW_TOKENS = 1024


def _attention_on_torch(query, key, value, mask):
    """torch's fused attention over [B, heads, N, d], `mask` bool [B, 1, 1, keys]; but its gradient for bfloat16 on CPUs
    takes up to thirty times float32's. There plain products are faster up to a number of tokens, where the processor
    has instructions for bfloat16; without any, float32 is."""
    fused = torch.nn.functional.scaled_dot_product_attention
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
    if not learns or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return fused(query, key, value, attn_mask=mask)
    if not _bfloat16_on_cpu():
        return fused(query.float(), key.float(), value.float(), attn_mask=mask).to(query.dtype)
    if max(query.shape[2], key.shape[2]) < _FEW_TOKENS:
        return _by_products(query, key, value, mask)
    return fused(query, key, value, attn_mask=mask)


def _by_products(query, key, value, mask):
    """The same, sums and softmax in float32, logits and weights in the dtype of the inputs."""
    shape, rows = query.shape, (query.shape[0], query.shape[1], 1, key.shape[2])
    query, key, value = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
    bias = query.new_zeros(1)
    if mask is not None:
        bias = query.new_zeros(mask.shape).masked_fill(~mask, -math.inf).expand(rows).reshape(-1, 1, rows[-1])
    logits = torch.baddbmm(bias, query, key.transpose(1, 2), beta=int(mask is not None), alpha=shape[-1] ** -0.5)
    return torch.bmm(torch.softmax(logits, -1), value).reshape(shape)


@functools.cache
def _bfloat16_on_cpu() -> bool:
    """Whether the processor multiplies bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def convolution(inputs, kernel, bias=None, *, strides: tuple[int, int], padding: str):
    """[B, H, W, C] by a kernel [h, w, C, F], plus bias [F]; padding "valid" or "same". As keras.ops.conv, with channels
    last. On torch keras 3.15 copies the images to channels first and back; torch takes them as they lie, by other
    strides, adds the bias in the same pass, and kernels of one pixel are products of matrices."""
    if name() != "torch" or (padding == "same" and tuple(strides) != (1, 1)):
        found = ops.conv(inputs, kernel, strides=strides, padding=padding, data_format="channels_last")
        return found if bias is None else found + ops.reshape(bias, (1, 1, 1, -1))
    if tuple(kernel.shape[:2]) == tuple(strides) == (1, 1):
        return affine(inputs, ops.reshape(kernel, kernel.shape[2:]), bias)
    images, weights = ops.convert_to_tensor(inputs).permute(0, 3, 1, 2), ops.convert_to_tensor(kernel)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    result = torch.nn.functional.conv2d(images, weights.permute(3, 2, 0, 1), bias, stride=strides, padding=padding)
    return result.permute(0, 2, 3, 1)


def affine(inputs, kernel, bias=None):
    """[..., C] by a kernel [C, F], plus bias [F]: on torch in one pass."""
    if bias is None or name() != "torch":
        found = ops.matmul(inputs, kernel)
        return found if bias is None else found + bias
    inputs, kernel, bias = (ops.convert_to_tensor(part) for part in (inputs, kernel, bias))
    return torch.addmm(bias, inputs.reshape(-1, inputs.shape[-1]), kernel).reshape(*inputs.shape[:-1], kernel.shape[1])


def products(inputs, layers: Sequence) -> list:
    """What Dense layers without bias and activation, all of one width, make of the same inputs [..., C]: on torch one
    product, unless a layer is quantised. In float32 on a CPU one is slower by 3 % of a step."""
    together = name() == "torch" and isinstance(inputs, torch.Tensor) and inputs.device.type != "meta"
    slower = together and inputs.device.type == "cpu" and inputs.dtype == torch.float32
    if not together or slower or any(layer.quantization_mode for layer in layers):
        return [layer(inputs) for layer in layers]
    kernels = [ops.convert_to_tensor(layer.kernel) for layer in layers]
    return list(ops.matmul(inputs, torch.cat(kernels, 1)).chunk(len(kernels), -1))


def handed_out(vector, count: int, dtype) -> list:
    """`count` times the vector, for as many layers that compute in `dtype`. On torch it is cast for all at once, and
    their gradients are added at once, in the vector's own dtype; elsewhere compilers see to that."""
    if name() != "torch" or not isinstance(vector, torch.Tensor):
        return [vector] * count
    return list(ops.cast(vector.expand(count, *vector.shape), dtype).unbind(0))


def modulated(inputs, scale, shift):
    """inputs scale + shift, which broadcast to inputs: on torch in one operation, but where a gradient is wanted in
    half precision, as that of torch.addcmul is two products more."""
    if name() != "torch" or (torch.is_grad_enabled() and inputs.dtype != torch.float32):
        return inputs * scale + shift
    return torch.addcmul(shift, inputs, scale)


def halved(images):
    """[B, H, W, C] -> [B, H/2, W/2, C], means over 2 x 2 pixels."""
    if name() != "torch":
        return ops.average_pool(images, (2, 2), (2, 2), data_format="channels_last")
    return torch.nn.functional.avg_pool2d(ops.convert_to_tensor(images).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def fused_group_norm(inputs, scale, offset, *, groups: int, epsilon: float):
    """Group normalisation of [B, H, W, C] in one operation, float32 inside; None where compilers fuse its parts."""
    if name() != "torch":
        return None
    inputs, scale, offset = (ops.convert_to_tensor(part) for part in (inputs, scale, offset))
    parts = (groups, scale.float(), offset.float(), epsilon)
    result = torch.nn.functional.group_norm(inputs.permute(0, 3, 1, 2).float(), *parts)
    return result.permute(0, 2, 3, 1).to(inputs.dtype)


def layer_norm(inputs, scale, offset, epsilon: float):
    """Layer normalisation over the last axis, float32 inside. As keras.ops.layer_normalization; on a CPU torch's kernel
    reads half precision beside weights in float32, so that no copies in float32 are made."""
    half = name() == "torch" and isinstance(inputs, torch.Tensor) and inputs.dtype in (torch.bfloat16, torch.float16)
    if not half or inputs.device.type != "cpu":
        return ops.layer_normalization(inputs, scale, offset, -1, epsilon)
    scale, offset = (ops.convert_to_tensor(part).float() for part in (scale, offset))
    return torch.nn.functional.layer_norm(inputs, inputs.shape[-1:], scale, offset, epsilon)


def dropped(x, where, factor: float):
    """x times `factor`, rounded once, to the dtype of x, and 0 `where` that bool tensor is true: a factor in bfloat16
    would be off by up to 0.4 %. On a torch CPU float32 is multiplied by a mask of zeros and factors, forward and
    backward, which takes 0.55 of the time of filling; it is kept in the size of x, where others keep bools, and makes
    NaN, not 0, of what is infinite."""
    if name() == "torch":  # which multiplies half precision by numbers in float32, in one pass
        x = ops.convert_to_tensor(x)
        if x.dtype == torch.float32 and x.device.type == "cpu":
            return x * (where.logical_not() * factor)
        return (x * factor).masked_fill(where, 0.0)
    return ops.where(where, ops.zeros((), x.dtype), ops.cast(ops.cast(x, "float32") * factor, x.dtype))


def held(weight):
    """The weight, with a gradient of zero: tensorflow and torch want it connected to the loss."""
    if name() == "torch":
        weight = ops.convert_to_tensor(weight)
        return torch.lerp(weight.detach(), weight, 0.0)
    return ops.stop_gradient(weight) + 0.0 * weight


def masked(x, bits: int):
    """x AND `bits`, of int32. Keras on torch would copy the number to the device first, and the host waits for that."""
    return x & bits if name() == "torch" else ops.bitwise_and(x, bits)


def unsigned_shift(x, bits: int):
    """int32 x shifted to the right by 0 < bits < 32, with zeros from the left, where int32 shifts copy the sign."""
    shifted = x >> bits if name() == "torch" else ops.right_shift(x, bits)  # tensorflow has no such operator
    return masked(shifted, (1 << (32 - bits)) - 1)


def halves_below(words, limit: int):
    """bool [B, 2n, ...] of int32 words [B, n, ...]: whether their lower 16 bits, then their upper ones, are below a
    limit in [1, 2^16 - 1]."""
    if name() != "torch":
        return ops.less(ops.concatenate([masked(words, 2**16 - 1), unsigned_shift(words, 16)], axis=1), limit)
    batch, count, *rest = words.shape
    halves = (words.contiguous().view(torch.int16) ^ -(2**15)).view(*words.shape, 2)  # signed in unsigned order
    return (halves < limit - 2**15).movedim(-1, 1).reshape(batch, 2 * count, *rest)


def rotated(x, bits: int):
    """int32 x rotated to the left by 0 < bits < 31."""
    low = unsigned_shift(x, 32 - bits)
    if name() == "torch":
        return torch.add(low, x, alpha=1 << bits)  # products wrap; one operation for two
    return ops.bitwise_or(ops.left_shift(x, bits), low)


def constant(function: Callable):
    """function(), a tensor through which no gradient passes; torch keeps nothing for one, and runs blocks as it does to
    sample."""
    with torch.no_grad() if name() == "torch" else contextlib.nullcontext():
        return ops.stop_gradient(function())


loop = ops.fori_loop  # carry = body(i, carry) for start <= i < stop: compiled, or a Python loop on torch
