"""A runner of a step that is not exported, in this process."""

import json

import numpy as np
from helpers import BACKEND

import keras_sid2
from keras_sid2.exporting import DenoisingStep, folder, runner


class Here(runner.Runner):
    """A runner of the step of a model in this process: its functions as they are, before they are exported."""

    def __init__(self, model):
        self.step = DenoisingStep(model)
        self.about, self.shape = json.loads(json.dumps(folder.describe(self.step))), model.sample_shape

    def run(self, name, inputs):
        tensors = {key: keras_sid2.conditions.ops.convert_to_tensor(inputs[key]) for key in self.about["inputs"][name]}
        for key, (shape, dtype) in self.step.inputs(name).items():
            assert inputs[key].dtype == dtype and inputs[key].shape[1:] == tuple(shape), key
        weights = [keras_sid2.conditions.ops.convert_to_tensor(values) for _, values in self.step.weights]
        found = self.step.functions[name](weights, tensors)
        return {key: np.asarray(value.detach() if BACKEND == "torch" else value) for key, value in found.items()}

    plain = property(lambda self: lambda inputs: self.run("plain", inputs))
    guided = property(lambda self: lambda inputs: self.run("guided", inputs))
