"""The network of SiD2, its cost and the memory that training it takes."""

from keras_sid2.models.cost import NetworkCost, network_cost
from keras_sid2.models.level import Level
from keras_sid2.models.memory import MemoryPlan, largest_batch, memory_plan
from keras_sid2.models.residual_uvit import ResidualUViT
from keras_sid2.models.weights import NetworkWeights, network_weights

__all__ = [
    "Level",
    "MemoryPlan",
    "NetworkCost",
    "NetworkWeights",
    "ResidualUViT",
    "largest_batch",
    "memory_plan",
    "network_cost",
    "network_weights",
]
