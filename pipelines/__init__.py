"""From images on disk to batches of uint8, through TFRecord shards and tf.data.

    prepare(name, data_dir)     writes a data set as TFRecord or ArrayRecord    (preparing.py)
    verify(name_or_dir)         checks every record of it; stats: what is in it (checking.py)
    describe(name_or_dir)       says what a prepared data set holds             (locating.py)
    fingerprint(name_or_dir)    changes when the data do                        (fingerprints.py)
    make_dataset(name_or_dir)   {"image": uint8 [B,H,W,C], "label": int32 [B]}  (reading.py)
    make_grain_dataset(...)     the same without TensorFlow                     (grain_reading.py)
    measure_wait(dataset)       how long the consumer waits for its batches     (metering.py)

Importing this package loads neither tensorflow nor tensorflow_datasets nor scikit-learn: the functions that
need them do.
"""

from pipelines.checking.fingerprints import file_stamps, fingerprint
from pipelines.checking.verifying import SplitReport, random_grid, stats, verify
from pipelines.datasets import dataset_names
from pipelines.images import adm_center_crop
from pipelines.preparing.prepare import prepare
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.grain_reader import make_grain_dataset
from pipelines.reading.locating import DatasetDescription, describe
from pipelines.reading.metering import WaitMeter, measure_wait
from pipelines.reading.tf_reader import make_dataset
from pipelines.values import RecordFeatures, ValueSpec

__all__ = [
    "BadRecord",
    "BadRecords",
    "DatasetDescription",
    "RecordFeatures",
    "SplitReport",
    "ValueSpec",
    "WaitMeter",
    "adm_center_crop",
    "dataset_names",
    "describe",
    "file_stamps",
    "fingerprint",
    "make_dataset",
    "make_grain_dataset",
    "measure_wait",
    "prepare",
    "random_grid",
    "stats",
    "verify",
]
