"""A SiD2Model in a sentence, for its repr and summary."""

from keras_sid2.models import trace


def in_a_line(model) -> str:
    """Samples, conditions, parameters, multiply-adds of an example, objective and steps of a SiD2Model."""
    conditions = ", ".join(f"{name} {condition}" for name, condition in model.conditions.items()) or "no conditions"
    parts = [
        f"samples {list(model.sample_shape)}",
        conditions,
        f"{model.network.count_params():,} parameters",
        *_cost(model.network),
        repr(model.objective),
        f"step {_step(model)}",
    ]
    return f"<{type(model).__name__} {model.name}: {'; '.join(parts)}>"


def _step(model) -> str:
    try:
        return str(int(model.step.numpy()))
    except Exception:  # in a function that a backend traces, where it has no value
        return "not known here"


def _cost(network) -> list[str]:
    try:
        return [f"{trace(network).cost.multiply_adds / 1e6:,.4g} M multiply-adds"]
    except Exception:  # a network of the user's that cannot be called without values: its model has a repr all the same
        return []
