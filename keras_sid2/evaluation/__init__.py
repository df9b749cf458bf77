"""What generated images are worth, and fields."""

from keras_sid2.evaluation.classifier import ImageClassifier, quality
from keras_sid2.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from keras_sid2.evaluation.ensembles import EnsembleScores, fair_crps
from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.features import Features, ImagesDigest
from keras_sid2.evaluation.fields import FieldScores, measure_fields
from keras_sid2.evaluation.i3d import i3d_features
from keras_sid2.evaluation.inception import inception_features
from keras_sid2.evaluation.inception_score import inception_score
from keras_sid2.evaluation.measure import measure
from keras_sid2.evaluation.reference import reference_of
from keras_sid2.evaluation.signature import (
    Measurement,
    Reference,
    cannot_be_told,
    check_comparable,
    collect,
    evaluate,
    folded,
    how_measured,
)
from keras_sid2.evaluation.spectra import FieldStatistics, power_spectrum
from keras_sid2.evaluation.statistics import FeatureStatistics

__all__ = [
    "EnsembleScores",
    "FeatureSet",
    "FeatureStatistics",
    "Features",
    "FieldScores",
    "FieldStatistics",
    "ImageClassifier",
    "ImagesDigest",
    "Measurement",
    "Reference",
    "cannot_be_told",
    "check_comparable",
    "collect",
    "evaluate",
    "fair_crps",
    "folded",
    "frechet_distance",
    "how_measured",
    "i3d_features",
    "inception_features",
    "inception_score",
    "kernel_distance",
    "measure",
    "measure_fields",
    "power_spectrum",
    "precision_recall",
    "quality",
    "reference_of",
]
