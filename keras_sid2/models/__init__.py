"""The network of SiD2 and its cost."""

from keras_sid2.models.cost import NetworkCost, network_cost
from keras_sid2.models.level import Level
from keras_sid2.models.residual_uvit import ResidualUViT

__all__ = ["Level", "NetworkCost", "ResidualUViT", "network_cost"]
