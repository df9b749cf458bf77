"""The network of SiD2, its cost and the memory that training it takes."""

from keras_sid2.models.cost import NetworkCost, network_cost
from keras_sid2.models.level import Level
from keras_sid2.models.memory import MemoryPlan, largest_batch, memory_plan
from keras_sid2.models.residual_uvit import ResidualUViT

__all__ = ["Level", "MemoryPlan", "NetworkCost", "ResidualUViT", "largest_batch", "memory_plan", "network_cost"]
