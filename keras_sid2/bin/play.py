"""sid2-play: a page on which to draw with trained models, in a browser on this machine.

    sid2-play                                     # with the trained models that come with the library
    sid2-play --workdir=runs/digits
    sid2-play --preset=mine/folder --weights=digits.keras --workdir=runs/a --workdir=runs/b

The page shows pictures as they come about, two settings side by side, and the commands and lines of Python that draw
the same; it inpaints what a brush has marked. Requests wait in a queue. Pictures to inpaint are kept in --folder, for
the commands to find; nothing else of this machine is read or written for a visitor, and nothing is sent anywhere.
Ctrl-C ends it at once.
"""

import functools
import sys

from keras_sid2.bin import signals
from keras_sid2.bin.common import check_folder, run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.flag_table import check
from keras_sid2.bin.page.models import offer
from keras_sid2.bin.page.pictures import Kept
from keras_sid2.bin.page.server import PageServer, is_loopback
from keras_sid2.bin.page.settings import Limits
from keras_sid2.bin.tables.play import PlayFlags
from keras_sid2.training import list_trained


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
