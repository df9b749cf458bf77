"""tfds builder for ImageNet (ILSVRC 2012) from the files that image-net.org gives out."""

import dataclasses
import functools
import importlib.resources
import os
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds

from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, PictureConfig, digest_of
from pipelines.images import BadImage

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
SUFFIX = ".JPEG"


@dataclasses.dataclass(eq=False, kw_only=True)
class ImagenetConfig(PictureConfig):
    """`source`: a folder with the official tar files (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar), or with what
    they hold: train/n01440764/*.JPEG, and val/*.JPEG or val/n01440764/*.JPEG.
    """


class Imagenet(LocalBuilder):
    """ImageNet, ILSVRC 2012 (Russakovsky et al., arXiv 1409.0575): uint8 RGB images and their class, 0..999.

    Source: the official tar files, which are read where they lie, or the extracted tree. Classes are numbered by the
    sorted WordNet ids, as everywhere; names and the classes of the validation images are those of tfds's imagenet2012.
    Splits: train (1 281 167), validation (50 000), each if it is there.

    For FIDs that can be compared with the paper's: image_size=256 (or 64, 128, 512) and encoding="png", which stores
    ADM's centre crop without loss. encoding="jpeg" takes a third of the space at quality 95, and changes the statistics
    that FID compares; "original" keeps the files for crops at reading, which are not ADM's. EXIF orientation is
    ignored, as ADM ignores it. The few CMYK and grey images are converted to RGB and counted.
    """

    CONFIG = ImagenetConfig

    HOMEPAGE = "https://image-net.org/"

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": self.builder_config.image_feature(), "label": tfds.features.ClassLabel(names=list(synsets()))}

    def listing(self) -> dict[str, list[Item]]:
        return self._listing

    @functools.cached_property
    def _listing(self) -> dict[str, list[Item]]:
        source = self.builder_config.source
        splits = {
            "train": _listed(source, TRAIN_TAR, "train", _train_tar, _class_folders),
            "validation": _listed(source, VALIDATION_TAR, "val", _validation_tar, _validation_folder),
        }
        if not any(splits.values()):
            raise ValueError(
                f"there is neither {TRAIN_TAR} nor {VALIDATION_TAR} nor a folder train or val with images in {source}"
            )
        return splits

    def notes(self) -> list[str]:
        expected = {"train": 1_281_167, "validation": 50_000}
        found = {split: len(items) for split, items in self.listing().items()}
        return [
            f"{split} has {found[split]} images; the official data set has {number}"
            for split, number in expected.items()
            if found[split] != number
        ]

    def example(self, item: Item) -> Made:
        try:
            data = _read(self.builder_config.source, *item.source)
            image, changes = self.builder_config.stored(data, upright=False)
        except (BadImage, OSError) as error:
            raise BadSource(f"{item.key} {error}") from None
        return Made({"image": image, "label": item.label}, digest_of(data), changes)


@functools.cache
def synsets() -> tuple[str, ...]:
    """The 1000 WordNet ids, sorted: class i is the i-th."""
    return tuple(_lines_of_tfds("labels.txt"))


@functools.cache
def _validation_labels() -> dict[str, int]:
    """{file name: class} of the validation images."""
    numbers = {name: number for number, name in enumerate(synsets())}
    lines = _lines_of_tfds("validation_labels.txt")
    return {f"ILSVRC2012_val_{index:08d}{SUFFIX}": numbers[line] for index, line in enumerate(lines, 1)}


def _lines_of_tfds(name: str) -> list[str]:
    file = importlib.resources.files("tensorflow_datasets") / "datasets" / "imagenet2012" / name
    return file.read_text().split()


def _listed(source, tar_name, folder_name, of_tar, of_folder) -> list[Item]:
    """The images of a split, from its tar file or else from its folder, if either is there."""
    tar, folder = os.path.join(source, tar_name), os.path.join(source, folder_name)
    if os.path.exists(tar):
        try:
            return of_tar(tar, tar_name)
        except tarfile.TarError as error:
            raise ValueError(f"{tar} is no whole tar file ({error})") from None
    return of_folder(folder, folder_name) if os.path.isdir(folder) else []


def _train_tar(path: str, name: str) -> list[Item]:
    """The training tar holds one tar a class; nothing is compressed, so each image is a run of bytes in the file."""
    items = []
    with tarfile.open(path, "r:") as outer:
        for member in _whole(outer):
            synset = os.path.basename(member.name).removesuffix(".tar")
            number = _class_number(synset, path)
            with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
                for image in _whole(inner):
                    start = member.offset_data + image.offset_data
                    items.append(Item(f"{synset}/{os.path.basename(image.name)}", number, (name, start, image.size)))
    return items


def _validation_tar(path: str, name: str) -> list[Item]:
    with tarfile.open(path, "r:") as tar:
        images = [(os.path.basename(member.name), member) for member in _whole(tar) if member.isfile()]
    return [
        Item(file, _validation_label(file, path), (name, member.offset_data, member.size)) for file, member in images
    ]


def _whole(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file; TarError if it does not end as it must. tarfile takes one that is cut between two
    members, or in the name of one, for whole."""
    end = 0
    for member in tar:
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        yield member
    tar.fileobj.seek(end)
    if tar.fileobj.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it ends early, after {end} bytes")


def _class_folders(folder: str, name: str) -> list[Item]:
    items = []
    for synset in sorted(os.listdir(folder)):
        if os.path.isdir(os.path.join(folder, synset)):
            number = _class_number(synset, folder)
            files = sorted(file for file in os.listdir(os.path.join(folder, synset)) if file.endswith(SUFFIX))
            items += [Item(f"{synset}/{file}", number, (f"{name}/{synset}/{file}", 0, -1)) for file in files]
    return items


def _validation_folder(folder: str, name: str) -> list[Item]:
    files = sorted(file for file in os.listdir(folder) if file.endswith(SUFFIX))
    if not files:
        items = _class_folders(folder, name)
        return [Item(os.path.basename(item.key), item.label, item.source) for item in items]
    return [Item(file, _validation_label(file, folder), (f"{name}/{file}", 0, -1)) for file in files]


def _class_number(synset: str, where: str) -> int:
    if synset not in synsets():
        raise ValueError(f"{synset!r} in {where} is none of ImageNet's 1000 classes, which are named like n01440764")
    return synsets().index(synset)


def _validation_label(file: str, where: str) -> int:
    if file not in _validation_labels():
        raise ValueError(
            f"{file!r} in {where} is none of the validation images, such as ILSVRC2012_val_00000001{SUFFIX}"
        )
    return _validation_labels()[file]


def _read(source: str, name: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on; size -1: all."""
    with open(os.path.join(source, name), "rb") as file:
        file.seek(start)
        data = file.read(size)
    if size >= 0 and len(data) < size:
        raise BadImage(f"ends early: {name} is truncated")
    return data
