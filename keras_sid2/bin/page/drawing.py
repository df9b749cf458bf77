"""One thread draws, request after request; others wait in a queue with a limit."""

import collections
import queue
import sys
import threading
import traceback
from collections.abc import Iterator

from absl import flags

from keras_sid2.bin.page.pictures import png
from keras_sid2.bin.page.settings import Settings, command, flags_of, python_lines
from keras_sid2.bin.prompts import with_encoder
from keras_sid2.bin.sample_request import Request, read_flags
from keras_sid2.evaluation import ImagesDigest

FRAMES = 16  # at most, of pictures that come about
_PIECE = 16  # steps, about, between two looks at whether anybody still wants them
_OURS = (ValueError, OSError, FloatingPointError, ImportError, flags.Error)  # whose text is for users


def sentence(error: Exception) -> str:
    """What the page says of an error: one line, and of a fault of ours none of its own."""
    if isinstance(error, _OURS):
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
        return (told.splitlines() or [type(error).__name__])[0]
    traceback.print_exception(error, file=sys.stderr)
    return "This failed by a fault of the program, which the terminal that runs sid2-play shows."


def drawn(sides: list[Settings]) -> Iterator[dict]:
    """What happens while both sides are drawn, as plain values: how each is drawn, its pictures as they come about,
    and the digest of its images, as it is in sid2-sample's NAME.npz.json."""
    requests = [_request(settings) for settings in sides]
    all_asked = [request.sample_request(0, request.count) for request in requests]  # refuses before anything is drawn
    for side, (settings, request, asked) in enumerate(zip(sides, requests, all_asked, strict=True)):
        yield {"side": side, "command": command(settings), "python": python_lines(settings)}
        pieces = min(asked.num_steps, max(FRAMES, asked.num_steps // _PIECE))
        for piece, (done, z_t, x_hat) in enumerate(asked.coming_about(pieces), 1):
            event = {"side": side, "done": done, "steps": asked.num_steps}
            if piece * FRAMES // pieces > (piece - 1) * FRAMES // pieces:  # FRAMES of them, the last one among them
                event |= {"captions": _captions(request), "z_t": [*map(png, z_t)], "x_hat": [*map(png, x_hat)]}
            yield event
        digest = ImagesDigest()
        digest.add(x_hat)
        yield {"side": side, "digest": digest.hexdigest()}


def _request(settings: Settings) -> Request:
    """As sid2-sample makes one of the same flags."""
    values = flags_of(settings)
    request = Request(model=settings.model.model, **read_flags(values))
    request.prompts = with_encoder(request.prompts, request.model, values.text_encoder, request.conditions)
    if values.labels is None:
        request.take_classes_in_turn()
    return request


def _captions(request: Request) -> list[str]:
    return request.captions(request.count) or [""] * request.count


class Job:
    """Work that was handed in: `events` come as it goes on, None at its end; set `gone` when nobody wants them."""

    def __init__(self, work: Iterator[dict]):
        self.work, self.events, self.gone = work, queue.SimpleQueue(), threading.Event()


class Full(ValueError):
    """The queue is full."""


class Desk:
    """Takes jobs and does them one at a time, in their order."""

    def __init__(self, most_waiting: int):
        self._most, self._waiting = most_waiting, collections.deque()
        self._changed = threading.Condition()
        # A thread of its own, for each that computes makes torch start as many as there are cores.
        threading.Thread(target=self._serve, name="drawing", daemon=True).start()

    def submit(self, work: Iterator[dict]) -> Job:
        """Full, where too many wait."""
        with self._changed:
            self._forget_gone()
            if len(self._waiting) >= self._most:
                raise Full(f"{self._most} requests are waiting already: try again when they are done.")
            job = Job(work)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def ahead_of(self, job: Job) -> int | None:
        """How many wait before it; None where it does not wait any more."""
        with self._changed:
            self._forget_gone()
            return self._waiting.index(job) if job in self._waiting else None

    def _forget_gone(self):
        self._waiting = collections.deque(job for job in self._waiting if not job.gone.is_set())

    def _serve(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                job = self._waiting.popleft()
            self._do(job)

    def _do(self, job: Job):
        try:
            for event in job.work:
                if job.gone.is_set():
                    return
                job.events.put(event)
        except Exception as error:
            job.events.put({"error": sentence(error)})
        finally:
            job.work.close()
            job.events.put(None)
