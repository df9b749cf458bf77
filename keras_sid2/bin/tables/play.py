"""The flags of sid2-play."""

import dataclasses

from keras_sid2.bin.flag_table import Accepted, at_least, flag
from keras_sid2.bin.tables.shared import CacheFlags

_PORT = Accepted("from 0, which takes any that is free, to 65535", lambda value: 0 <= value < 65536)
_IMAGES = Accepted("from 1 to 64", lambda value: 1 <= value <= 64)  # one batch of sid2-sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlayFlags(CacheFlags):
    workdir: tuple = flag((), "work directory of sid2-train, at its newest checkpoint; may be repeated")
    weights: tuple = flag((), "a .keras file, or the folder of a checkpoint or preset; may be repeated")
    preset: tuple = flag((), "a trained model's name or folder, or hf://user/name; may be repeated")
    host: str = flag("127.0.0.1", "address to listen at; another than this machine's own lets others in")
    port: int = flag(7860, "0 takes any that is free", _PORT)
    queue: int = flag(8, "requests that may wait", at_least(1))
    most_images: int = flag(16, "pictures that a request may ask for", _IMAGES)
    most_steps: int = flag(512, "steps that a request may ask for", at_least(1))
    folder: str = flag("play", "where pictures to inpaint are kept")
