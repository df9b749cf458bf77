"""sid2-play: a page on which to draw with trained models, in a browser on this machine.

    sid2-play                                     # with the trained models that come with the library
    sid2-play --workdir=runs/digits
    sid2-play --preset=mine/folder --weights=digits.keras --workdir=runs/a --workdir=runs/b

The page shows pictures as they come about, two settings side by side, and the commands and lines of Python that draw
the same; it inpaints what a brush has marked. Requests wait in a queue. Pictures to inpaint are kept in --folder, for
the commands to find; nothing else of this machine is read or written for a visitor, and nothing is sent anywhere.
Ctrl-C ends it at once.
"""

import dataclasses
import functools
import sys

from keras_sid2.bin import signals
from keras_sid2.bin.common import check_folder, run_program
from keras_sid2.bin.compilation_cache import CacheFlags, keep_compiled
from keras_sid2.bin.flag_table import Accepted, at_least, check, flag
from keras_sid2.bin.page.models import offer
from keras_sid2.bin.page.pictures import Kept
from keras_sid2.bin.page.server import PageServer, is_loopback
from keras_sid2.bin.page.settings import Limits
from keras_sid2.training import list_trained

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


def main(values) -> int:
    check(PlayFlags, values)
    check_folder("folder", values.folder)
    signals.end_at_once("sid2-play")  # all files are written at a go
    keep_compiled(values.compilation_cache)
    named = values.workdir, values.weights, values.preset
    models = offer(*named) if any(named) else offer([], [], list_trained())
    limits = Limits(values.most_images, values.most_steps)
    try:
        server = PageServer((values.host, values.port), models, limits, values.queue, Kept(values.folder))
    except OSError as error:
        told = f"--host={values.host} --port={values.port} cannot be listened at: {error.strerror or error}"
        raise ValueError(f"{told}; --port=0 takes a port that is free.") from error
    if not is_loopback(values.host):
        told = f"--host={values.host} lets everybody who reaches this machine draw here, without a password"
        print(f"sid2-play: WARNING: {told}, and what they send is not encrypted.", file=sys.stderr)
    print(f"sid2-play: {server.url} (Ctrl-C ends it)", flush=True)
    server.serve_forever()
    return 0


run = functools.partial(run_program, main, "sid2-play", PlayFlags)

if __name__ == "__main__":
    run()
