"""What generated images are worth."""

from keras_sid2.evaluation.classifier import ImageClassifier, quality
from keras_sid2.evaluation.frechet import frechet_distance

__all__ = ["ImageClassifier", "frechet_distance", "quality"]
