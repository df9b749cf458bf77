"""Images to read: textures with the spectrum of photographs, as data sets of TFRecord shards or a tree of files.

Noise would be the hardest case for a decoder and flat colour the easiest, and neither is what is read in earnest:
the amplitudes of photographs fall off as 1/f, and their channels go together.
"""

import functools
import io
import pathlib
from collections.abc import Iterator

import numpy as np

HEIGHT, WIDTH, SIDE = 400, 500, 256  # of the photographs; of the cropped images
SHARDS = 4
# name of a data set -> what it is
KINDS = {
    "photos": "JPEG 500x400 of quality 90, cropped and resized while reading",
    "png": "PNG, cropped and resized before",
    "jpeg": "JPEG of quality 95, cropped and resized before",
}


@functools.cache
def _falloff(height: int, width: int) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # the mean is set later
    return 1.0 / frequency


def _field(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random field of amplitude 1/f, of mean 0 and standard deviation 1."""
    falloff = _falloff(height, width)
    waves = rng.standard_normal((*falloff.shape, 2)) @ np.array([1.0, 1.0j])
    field = np.fft.irfft2(waves * falloff, s=(height, width))
    return (field - field.mean()) / field.std()


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A coloured texture, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    luma, red, blue = (_field(rng, height, width) for _ in range(3))
    channels = np.stack([luma + 0.25 * red, luma - 0.1 * red - 0.1 * blue, luma + 0.25 * blue], axis=-1)
    return np.clip(rng.uniform(90.0, 150.0) + 45.0 * channels, 0.0, 255.0).astype(np.uint8)


def _encoded(seed: int, shrink: int) -> dict[str, bytes]:
    """One texture in each of KINDS; sides are those above divided by `shrink`."""
    from PIL import Image

    from pipelines import images

    picture = Image.fromarray(texture(seed, HEIGHT // shrink, WIDTH // shrink))
    left = (picture.width - picture.height) // 2
    square = picture.crop((left, 0, left + picture.height, picture.height))
    small = square.resize((SIDE // shrink,) * 2, Image.Resampling.BICUBIC)
    return {
        "photos": jpeg(picture, 90),
        "png": images.encode(small, "png", 100),
        "jpeg": images.encode(small, "jpeg", 95),
    }


def jpeg(picture, quality: int) -> bytes:
    """With the chroma subsampling that most photographs have."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=quality, subsampling=2)
    return file.getvalue()


def write_datasets(folder: pathlib.Path, num_images: int, shrink: int = 1):
    """Writes folder/KIND-0000i.tfrecord for every kind, the same images in each."""
    from tensorflow_datasets.proto import tf_example_pb2

    from pipelines import tfrecord

    encoded = [_encoded(seed, shrink) for seed in range(num_images)]
    for kind in KINDS:
        for shard in range(SHARDS):
            records = []
            for label in range(shard, num_images, SHARDS):
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(encoded[label][kind])
                example.features.feature["label"].int64_list.value.append(label)
                records.append(example.SerializeToString())
            with open(folder / f"{kind}-{shard:05d}.tfrecord", "wb") as file:
                tfrecord.write_records(file, records)


def read_images(folder: pathlib.Path, kind: str) -> list[bytes]:
    """The encoded images of a data set, all in memory, for the readers that are compared."""
    from tensorflow_datasets.proto import tf_example_pb2

    from pipelines import tfrecord

    found = []
    for shard in sorted(map(str, folder.glob(f"{kind}-*.tfrecord"))):
        offsets = tfrecord.find_records(shard)[0].tolist()
        with tfrecord.open_file(shard) as file:
            records = [tfrecord.read_record(file, *place) for place in zip(offsets[:-1], offsets[1:], strict=True)]
        examples = map(tf_example_pb2.Example.FromString, records)
        found += [example.features.feature["image"].bytes_list.value[0] for example in examples]
    return found


def write_tree(folder: pathlib.Path, num_images: int, num_classes: int = 10, distinct: int = 50):
    """Writes folder/class/image.jpg, small JPEGs of 96x80; no two files have the same bytes."""
    from PIL import Image

    pictures = [jpeg(Image.fromarray(texture(seed, 80, 96)), 90) for seed in range(distinct)]
    for number in range(num_classes):
        (folder / f"class_{number}").mkdir(parents=True)
    for number, data in _varied(pictures, num_images):
        (folder / f"class_{number % num_classes}" / f"{number:06d}.jpg").write_bytes(data)


def _varied(pictures: list[bytes], num_images: int) -> Iterator[tuple[int, bytes]]:
    """The pictures over and over, each time with another comment segment behind the JPEG's first marker."""
    for number in range(num_images):
        data, text = pictures[number % len(pictures)], f"image {number:09d}".encode()
        yield number, data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]
