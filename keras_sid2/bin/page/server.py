"""The HTTP server of the page, on Python's own: three files that were read at its start, and what they ask for.

No path of a request ever becomes a path of a file. A page of another origin can neither read answers (no CORS headers,
the Host is checked, so that a name made to point here does not help) nor ask (a header of ours, which it may not send).
"""

import http.server
import importlib.resources
import ipaddress
import json
import queue
import re
import select
import socket
import sys
import threading
import urllib.parse

from keras_sid2.bin.page.drawing import Desk, Job, drawn, sentence
from keras_sid2.bin.page.models import Offered
from keras_sid2.bin.page.pictures import MOST_BYTES, Kept, png
from keras_sid2.bin.page.settings import Limits, read_settings

HEADER = "X-Sid2-Play"
_FILES = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css")}
_FILES |= {"/page.js": ("page.js", "text/javascript")}
_MOST_ASKED = 2 * 2**20  # bytes of a request that is no upload
_CONNECTIONS = 32
_SECONDS = 30  # that a client may say nothing for
_BEAT = 1.0  # seconds between two looks at a client that waits
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'"
_ALWAYS = {
    "Content-Security-Policy": f"{_POLICY}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class PageServer(http.server.ThreadingHTTPServer):
    """Serves the page of `models`; OSError where the address cannot be had. `url` is where it is."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], models: list[Offered], limits: Limits, most_waiting: int, kept: Kept):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Visit)
        self.models, self.limits, self.kept, self.desk = models, limits, kept, Desk(most_waiting)
        port = self.server_address[1]
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{name}:{port}/"
        self.hosts = {"127.0.0.1", "localhost", "[::1]", name} if is_loopback(address[0]) else None
        folder = importlib.resources.files(__package__)
        self.pages = {at: ((folder / name).read_bytes(), kind) for at, (name, kind) in _FILES.items()}
        state = {"models": [model.describe() for model in models]}
        state |= {"images": limits.images, "steps": limits.steps, "most_bytes": MOST_BYTES}
        self.pages["/state"] = (json.dumps(state).encode(), "application/json")
        self._free = threading.BoundedSemaphore(_CONNECTIONS)

    def process_request(self, request, client_address):
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # of clients that go away
            super().handle_error(request, client_address)


class _Refused(Exception):
    """The status, and a sentence."""


class _Visit(http.server.BaseHTTPRequestHandler):
    """One request."""

    timeout = _SECONDS
    server_version, sys_version = "sid2-play", ""

    def log_message(self, *_):
        pass

    def end_headers(self):
        for name, value in _ALWAYS.items():
            self.send_header(name, value)
        super().end_headers()

    def do_GET(self):
        found = self.server.pages.get(self.path)
        if self._is_of_another_host():
            self._answer(403, {"error": "This address is not that of the page."})
        elif found is None:
            self._answer(404, {"error": "There is nothing here."})
        else:
            self._send(200, *found)

    def do_POST(self):
        try:
            if self._is_of_another_host() or self.headers.get(HEADER) is None:
                raise _Refused(403, "Only the page itself may ask for that.")
            path, _, query = self.path.partition("?")
            does = {"/draw": self._draw, "/upload": self._upload}.get(path)
            if does is None:
                raise _Refused(404, "There is nothing here.")
            does(self._body(MOST_BYTES if path == "/upload" else _MOST_ASKED), query)
        except _Refused as refused:
            status, told = refused.args
            self._answer(status, {"error": told})
        except (ConnectionError, TimeoutError):
            pass
        except Exception as error:
            self._answer(400, {"error": sentence(error)})

    def _is_of_another_host(self) -> bool:
        name = re.sub(r":\d*$", "", self.headers.get("Host", "")).lower()  # the port is a tunnel's, and 80 is left out
        return self.server.hosts is not None and name not in self.server.hosts

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(411, "The request does not say how long it is.")
        if len(length) > 12 or int(length) > most:
            raise _Refused(413, f"That is more than the {most // 2**20} MiB that are taken.")
        return self.rfile.read(int(length))

    def _send(self, status: int, body: bytes, kind: str):
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, status: int, values: dict):
        self._send(status, json.dumps(values).encode(), "application/json")

    def _upload(self, body: bytes, query: str):
        """The model's number behind the ?; the picture comes back as it will be kept."""
        asked, models = urllib.parse.parse_qs(query).get("model", [""])[0], self.server.models
        if not (asked.isascii() and asked.isdigit() and len(asked) < 4 and int(asked) < len(models)):
            raise ValueError("There is no such model.")
        name, picture = self.server.kept.keep_picture(body, models[int(asked)].sample_shape)
        self._answer(200, {"known": name, "picture": png(picture)})

    def _draw(self, body: bytes, _: str):
        """Answers with a line of JSON for each event."""
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        server = self.server
        job = server.desk.submit(drawn(read_settings(asked, server.models, server.limits, server.kept)))
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson; charset=utf-8")
            self.end_headers()
            self._pass_on(job)
        finally:
            job.gone.set()  # also where the client went away

    def _pass_on(self, job: Job):
        while True:
            try:
                event = job.events.get(timeout=_BEAT)
            except queue.Empty:
                ahead = self.server.desk.ahead_of(job)
                event = {"ahead": ahead}
            if event is None:
                return
            if self._went_away():
                raise ConnectionResetError
            self.wfile.write(json.dumps(event).encode() + b"\n")

    def _went_away(self) -> bool:
        """Whether the client has closed its end: writing alone would tell it late."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
