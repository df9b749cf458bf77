"""tfds builder for ImageNet (ILSVRC 2012) from the files that image-net.org gives out.

`source`: a folder with the official tar files (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar), or with what they
hold: train/n01440764/*.JPEG, and val/*.JPEG or val/n01440764/*.JPEG.
"""

import functools
import importlib.resources
import os
import tarfile
from collections.abc import Iterator

import tensorflow_datasets as tfds

from pipelines.datasets.local_builder import Item, LocalBuilder, Made, PictureConfig

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
SUFFIX = ".JPEG"
EXPECTED = {"train": 1_281_167, "validation": 50_000}
ImagenetConfig = PictureConfig


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
        return {"image": self.builder_config.feature(), "label": tfds.features.ClassLabel(names=list(_classes()))}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        source = self.builder_config.source
        splits = {
            "train": _listed(source, TRAIN_TAR, _train_tar, "train", _class_folders),
            "validation": _listed(source, VALIDATION_TAR, _validation_tar, "val", _validation_folder),
        }
        if not any(splits.values()):
            raise ValueError(
                f"there is neither {TRAIN_TAR} nor {VALIDATION_TAR} nor a folder train or val with images in {source}"
            )
        found = {split: len(items) for split, items in splits.items()}
        return splits, [
            f"{split} has {found[split]} images; the official data set has {number}"
            for split, number in EXPECTED.items()
            if found[split] != number
        ]

    def example(self, item: Item) -> Made:
        return self.picture(item, item.key, *item.source, upright=False)


@functools.cache
def _classes() -> dict[str, int]:
    """{WordNet id: class}: the i-th of the sorted 1000 ids is class i."""
    return {name: number for number, name in enumerate(_lines_of_tfds("labels.txt"))}


@functools.cache
def _validation_labels() -> dict[str, int]:
    """{file name: class} of the validation images."""
    lines = _lines_of_tfds("validation_labels.txt")
    return {f"ILSVRC2012_val_{index:08d}{SUFFIX}": _classes()[line] for index, line in enumerate(lines, 1)}


def _lines_of_tfds(name: str) -> list[str]:
    file = importlib.resources.files("tensorflow_datasets") / "datasets" / "imagenet2012" / name
    return file.read_text().split()


def _class_of(synset: str, where: str) -> int:
    if synset not in _classes():
        raise ValueError(f"{synset!r} in {where} is none of ImageNet's 1000 classes, which are named like n01440764")
    return _classes()[synset]


def _validation_item(file: str, where: str, *source: str | int) -> Item:
    if file not in _validation_labels():
        known = f"ILSVRC2012_val_00000001{SUFFIX}"
        raise ValueError(f"{file!r} in {where} is none of the validation images, such as {known}")
    return Item(file, _validation_labels()[file], source)


def _listed(source, tar_name, of_tar, folder_name, of_folder) -> list[Item]:
    """The images of a split, from its tar file or else from its folder, if either is there."""
    tar, folder = os.path.join(source, tar_name), os.path.join(source, folder_name)
    if os.path.exists(tar):
        try:
            with tarfile.open(tar, "r:") as file:
                return list(of_tar(file, tar_name))
        except tarfile.TarError as error:
            raise ValueError(f"{tar} is no whole tar file ({error})") from None
    return list(of_folder(folder, folder_name)) if os.path.isdir(folder) else []


def _train_tar(outer: tarfile.TarFile, name: str) -> Iterator[Item]:
    """The training tar holds one tar a class; nothing is compressed, so each image is a run of bytes in the file."""
    for member in _whole(outer):
        synset = os.path.basename(member.name).removesuffix(".tar")
        number = _class_of(synset, outer.name)
        with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
            for image in _whole(inner):
                start = member.offset_data + image.offset_data
                yield Item(f"{synset}/{os.path.basename(image.name)}", number, (name, start, image.size))


def _validation_tar(tar: tarfile.TarFile, name: str) -> Iterator[Item]:
    for member in _whole(tar):
        if member.isfile():
            yield _validation_item(os.path.basename(member.name), tar.name, name, member.offset_data, member.size)


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


def _images_in(folder: str) -> list[str]:
    return sorted(file for file in os.listdir(folder) if file.endswith(SUFFIX))


def _class_folders(folder: str, name: str) -> Iterator[Item]:
    for synset in sorted(os.listdir(folder)):
        if os.path.isdir(path := os.path.join(folder, synset)):
            number = _class_of(synset, folder)
            for file in _images_in(path):
                yield Item(f"{synset}/{file}", number, (f"{name}/{synset}/{file}", 0, -1))


def _validation_folder(folder: str, name: str) -> Iterator[Item]:
    files = _images_in(folder)
    yield from (_validation_item(file, folder, f"{name}/{file}", 0, -1) for file in files)
    if not files:
        yield from (item._replace(key=os.path.basename(item.key)) for item in _class_folders(folder, name))
