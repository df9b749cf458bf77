"""Measurements as lines of JSON: the file that a sweep goes on from, and the log of a training run."""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator

from keras_sid2.evaluation import Measurement
from keras_sid2.generation.provenance import custom_in

_BEGINNINGS = (b'{"metrics": {', b'{"figures": {')  # of each line that a sweep writes, and that version 0.3 wrote
_OF_TRAINING = ("step", "seconds")


def measurement_in(line: str | bytes, beside: tuple[str, ...] = ()) -> Measurement | None:
    """The Measurement in a line, which may hold the values `beside` too; None if it is none."""
    try:
        values = json.loads(line)
        return Measurement.from_json({key: value for key, value in values.items() if key not in beside})
    except (ValueError, AttributeError):  # the second: JSON of something else
        return None


def read_measurements(text: str) -> dict:
    """{name: Measurement} of a .json file, of all lines of a .jsonl file, or of line 3 of it as "a.jsonl:3"."""
    parts = re.fullmatch(r"(.*\.jsonl)(?::(.*))?", text)
    if parts is None:
        return {text: Measurement.read(text)}
    path, number = parts.groups()
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file.")
    lines = dict(enumerate(pathlib.Path(path).read_text(errors="replace").splitlines(), 1))
    if number:
        if not number.isdecimal() or int(number) not in lines:
            raise ValueError(f"{text} must end with the number of a line, from 1 to {len(lines)}.")
        lines = {int(number): lines[int(number)]}
    found = {f"{path}:{line}": measurement_in(content, _OF_TRAINING) for line, content in lines.items()}
    wrong = [name for name, measurement in found.items() if measurement is None]
    if wrong:
        raise ValueError(f"{wrong[0]} is no measurement of sid2-evaluate or sid2-train.")
    return found


@contextlib.contextmanager
def sweep_lines(path: pathlib.Path) -> Iterator["SweepLines"]:
    """The SweepLines in a file, made if there is none; ValueError if another sweep holds it, or it is no sweep's."""
    import fcntl  # there is none on Windows, where all else here works

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process that ends in any way gives it back
        except BlockingIOError:
            raise ValueError(f"{path} is in use by another sweep: wait for its end, or give another --out.") from None
        yield SweepLines(file)


class SweepLines:
    """Measurements of earlier settings, a line each, in a file that is only added to.

    A last line that was cut by an end in the midst of it is left out and made anew.
    """

    def __init__(self, file):
        self._file = file
        file.seek(0)
        *whole, last = (content := file.read()).split(b"\n")
        self.found = [measurement_in(line) for line in whole]
        if None in self.found:
            line = self.found.index(None) + 1
            raise ValueError(f"Line {line} of {file.name} is no measurement of a sweep: mend it or give another --out.")
        if not any(last.startswith(beginning[: len(last)]) for beginning in _BEGINNINGS):
            raise ValueError(f"{file.name} is no file of a sweep: give another --out.")
        if complete := measurement_in(last):
            self.found.append(complete)
            file.write(b"\n")
        elif last:
            file.truncate(len(content) - len(last))

    def find(self, drawn: dict, measured: dict) -> Measurement | None:
        """That of the same images, measured alike; None where that cannot be told."""
        if custom_in(drawn):
            return None
        wanted = json.loads(json.dumps([drawn, measured]))
        for found in self.found:
            known = {key: value for key, value in found.drawn.items() if key != "images_digest"}
            if [known, found.measured] == wanted:
                return found
        return None

    def add(self, measurement: Measurement):
        line = json.dumps(dataclasses.asdict(measurement)).encode()
        self._file.write(line + b"\n")
        self._file.flush()
        self.found.append(measurement_in(line))
