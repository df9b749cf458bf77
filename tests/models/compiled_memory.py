"""Run by test_memory.py on eight virtual devices: what XLA says of the memory of compiled train steps.

python compiled_memory.py CASES prints a line of JSON for each case {"network", "batch", "precision", "parts", "mesh"}.
"""

import json
import sys

import jax
import keras
from jax import numpy as jnp

from keras_sid2 import AdamRecipe, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.parallel.mesh import Mesh, distributed


def memory(case: dict) -> dict[str, int]:
    """Bytes of the arguments and results, and of the temporary memory, on each device."""
    network = ResidualUViT(**case["network"], dtype=case["precision"])
    recipe = AdamRecipe(accumulation_steps=case["parts"])
    model = SiD2Model(network, schedule=CosineSchedule(), weighting=SigmoidWeighting(0.0), recipe=recipe)
    model.compile()
    variables = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state = tuple([v.value for v in group] for group in (*variables, model.metrics_variables))
    sizes = {"image": ((case["batch"], *model.image_shape), "uint8"), "label": ((case["batch"],), "int32")}
    data = {name: on_devices(jnp.zeros(*size)) for name, size in sizes.items()}
    layouts = jax.tree.map(lambda value: value.sharding, state)
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, layouts))
    found = step.lower(state, data).compile().memory_analysis()
    arguments = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return {"arguments": arguments, "temporary": found.temp_size_in_bytes}


def on_devices(values):
    distribution = keras.distribution.distribution()
    if distribution is None:
        return values
    return keras.distribution.distribute_tensor(values, distribution.get_data_layout(values.shape))


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        with distributed(Mesh.parse(case["mesh"])):
            print(json.dumps(memory(case)), flush=True)
