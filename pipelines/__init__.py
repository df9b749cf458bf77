"""From images, clips and arrays on disk to batches of values by name, through TFRecord shards and tf.data.

    prepare(name, data_dir)     writes a data set as TFRecord or ArrayRecord
    verify(name_or_dir)         checks every record of it; stats: what is in it
    describe(name_or_dir)       says what a prepared data set holds
    fingerprint(name_or_dir)    changes when the data do
    make_dataset(name_or_dir)   {"image": uint8 [B,H,W,C], "label": int32 [B], other names: [B,...]}
    make_grain_dataset(...)     the same without TensorFlow
    text_encoder(name)          captions and prompts become float32 [N, length, width]
    measure_wait(dataset)       how long the consumer waits for its batches

Importing this package loads neither tensorflow nor tensorflow_datasets nor scikit-learn: what needs them does.
"""

from pipelines.checking.fingerprints import file_stamps, fingerprint
from pipelines.checking.verifying import SplitReport, random_grid, stats, verify
from pipelines.datasets import dataset_names
from pipelines.images import adm_center_crop
from pipelines.preparing.prepare import prepare
from pipelines.reading.captions import read_captions
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.grain_reader import make_grain_dataset
from pipelines.reading.locating import DatasetDescription, describe
from pipelines.reading.metering import WaitMeter, measure_wait
from pipelines.reading.settings import ReadSettings
from pipelines.reading.tf_reader import make_dataset
from pipelines.text_encoders import TextEncoder, text_encoder
from pipelines.values import ChannelStatistics, RecordFeatures, ValueSpec

__all__ = [
    "BadRecord",
    "BadRecords",
    "ChannelStatistics",
    "DatasetDescription",
    "ReadSettings",
    "RecordFeatures",
    "SplitReport",
    "TextEncoder",
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
    "read_captions",
    "stats",
    "text_encoder",
    "verify",
]
