"""The network of SiD2; the cost of any network, and the memory that training it takes."""

from keras_sid2.models.level import Level
from keras_sid2.models.memory import MemoryPlan, largest_batch, memory_plan
from keras_sid2.models.residual_uvit import ResidualUViT, network_cost
from keras_sid2.models.tracing import NetworkCost, Trace, abstract_variables, trace

__all__ = [
    "Level",
    "MemoryPlan",
    "NetworkCost",
    "ResidualUViT",
    "Trace",
    "abstract_variables",
    "largest_batch",
    "memory_plan",
    "network_cost",
    "trace",
]
