"""Which of Keras's global settings and dtype policies networks and their training accept.

Weights, optimizer and averages are float32 always: at a decay of 0.9999 an average in bfloat16 never moves, because its
neighbouring numbers are 1/256 apart.
"""

import keras

_POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def network_policy(dtype=None) -> keras.DTypePolicy:
    """The policy of a network: float32, or half precision inside with float32 weights.

    `dtype` is as keras's layers take it, None the global policy; "bfloat16" and "float16" mean "mixed_bfloat16" and
    "mixed_float16". ValueError for anything else: float64, quantized policies, a policy for each layer.
    """
    try:
        name = keras.dtype_policies.get(dtype).name
    except (AttributeError, TypeError, ValueError):  # the last of them from a map of policies, which has no name
        name = None
    name = f"mixed_{name}" if f"mixed_{name}" in _POLICIES else name
    if name not in _POLICIES:
        told = f"{dtype!r}" if dtype is not None else f"the global {keras.config.dtype_policy()!r}"
        raise ValueError(f"A network's dtype must be one of {', '.join(_POLICIES)}, got {told}: weights are float32.")
    return keras.DTypePolicy(name)


def check_floatx():
    """ValueError unless keras's floatx is float32."""
    floatx = keras.config.floatx()
    if floatx != "float32":
        half = f", and give the network dtype='mixed_{floatx}'" if f"mixed_{floatx}" in _POLICIES else ""
        advice = f"call keras.config.set_floatx('float32'){half}"
        raise ValueError(f"keras.config.floatx() is {floatx!r}, and weights and losses are float32 here: {advice}.")


def check_channels_last():
    """ValueError where keras's layers take images channels first; for networks of other makers, as ours tell theirs."""
    if keras.config.image_data_format() != "channels_last":
        wrong = "keras.config.image_data_format() is 'channels_first', and networks get images [B, H, W, C]"
        advice = "call keras.config.set_image_data_format('channels_last') before the network is made"
        raise ValueError(f"{wrong}: {advice}.")
