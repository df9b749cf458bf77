"""Small shards made by hand, for what builders do not write."""

import io

import numpy as np
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from pipelines import tfrecord


def png(pixels, **options):
    return encoded(pixels, "PNG", **options)


def encoded(pixels, format, **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, format=format, **options)
    return file.getvalue()


def record(image=None, label=None, **others):
    """A serialized tf.train.Example; others are (kind, values)."""
    example = tf_example_pb2.Example()
    if image is not None:
        example.features.feature["image"].bytes_list.value.extend([image] if isinstance(image, bytes) else image)
    if label is not None:
        example.features.feature["label"].int64_list.value.extend([label] if isinstance(label, int) else label)
    for key, value in others.items():
        example.features.feature[key].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def write_shard(path, records):
    with open(path, "wb") as file:
        tfrecord.write_records(file, records)
    return str(path)


def pictures(number, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), np.uint8)
