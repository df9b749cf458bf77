"""What the builders of data sets made from local files have in common."""

import tensorflow_datasets as tfds


class LocalInfo(tfds.core.DatasetInfo):
    """Information about a data set that exists only on this machine."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: some versions of tfds ask a public bucket, and wait long without a network."""


class LocalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A tfds builder that never uses the network.

    `NUM_SHARDS`: how many shards `pipelines.prepare` writes for each split. tfds by itself would put such
    small data sets in one shard, and then the reading of several would never be exercised.
    """

    NUM_SHARDS = 4
