"""What lies beside images in files: how they were drawn, so that a measurement of them can say it.

NAME.npz has NAME.npz.json, a folder of PNG files has images.json in it: what `Drawing.describe` says, and the digest
of the images, by which it is known whether they are still the same.
"""

import json
import os
import pathlib

from keras_sid2.evaluation import ImagesDigest
from keras_sid2.io.atomic import written_whole


def passport_path(images: str | os.PathLike) -> pathlib.Path:
    """Of the images in an .npz, or in a folder."""
    images = pathlib.Path(images)
    return pathlib.Path(f"{images}.json") if images.suffix == ".npz" else images / "images.json"


def write_passport(images: str | os.PathLike, digest: ImagesDigest, drawn: dict):
    """Beside `images`: plain values that say how they were drawn."""
    with written_whole(passport_path(images)) as temporary:
        about = {"images_digest": digest.hexdigest(), **drawn}
        temporary.write_text(json.dumps(about, indent=2) + "\n")


def read_passport(images: str | os.PathLike) -> dict | None:
    """What `write_passport` wrote: `drawn` and images_digest; None where there is none.

    Raises ValueError for a file that it did not write.
    """
    path = passport_path(images)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("images_digest"), str):
        raise ValueError(f"{path} does not say how the images beside it were drawn: remove or rename it.")
    return found
