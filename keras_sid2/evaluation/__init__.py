"""What generated images are worth."""

from keras_sid2.evaluation.classifier import ImageClassifier, quality
from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.features import Features
from keras_sid2.evaluation.frechet import frechet_distance
from keras_sid2.evaluation.inception_score import inception_score
from keras_sid2.evaluation.kernel_distance import kernel_distance
from keras_sid2.evaluation.measure import measure
from keras_sid2.evaluation.precision_recall import precision_recall
from keras_sid2.evaluation.statistics import FeatureStatistics

__all__ = [
    "FeatureSet",
    "FeatureStatistics",
    "Features",
    "ImageClassifier",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "measure",
    "precision_recall",
    "quality",
]
