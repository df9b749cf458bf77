"""From images on disk to batches of uint8, through TFRecord shards and tf.data.

    prepare(name, data_dir)     writes a data set as TFRecord shards            (preparing.py)
    describe(name_or_dir)       says what a prepared data set holds             (locating.py)
    make_dataset(name_or_dir)   {"image": uint8 [B,H,W,C], "label": int32 [B]}  (reading.py)
    measure_wait(dataset)       how long the consumer waits for its batches     (metering.py)

Importing this package loads neither tensorflow nor tensorflow_datasets nor scikit-learn: the functions that
need them do.
"""

from pipelines.datasets import dataset_names
from pipelines.locating import DatasetDescription, describe
from pipelines.metering import WaitMeter, measure_wait
from pipelines.preparing import prepare
from pipelines.reading import make_dataset

__all__ = [
    "DatasetDescription",
    "WaitMeter",
    "dataset_names",
    "describe",
    "make_dataset",
    "measure_wait",
    "prepare",
]
