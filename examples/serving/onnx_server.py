"""A small HTTP server of an exported step, with ONNX Runtime, numpy and the standard library alone.

    sid2-export --workdir=runs/digits --format=onnx --out=exported
    python onnx_server.py exported 8000
    curl --data '{"conditions": {"label": [0, 1, 2]}, "num_steps": 64, "seed": 0}' localhost:8000/generate

The body is the arguments of Runner.generate as JSON; the answer is {"samples": nested lists}, or {"error": a sentence}
with the status 400. It listens on the loopback address, and draws one request after the other.
"""

import http.server
import importlib.util
import json
import pathlib
import sys

MOST_BYTES, MOST_IMAGES, MOST_STEPS = 2**20, 64, 1024  # of a request


def load_runner(folder: str):
    """The Runner that lies beside an exported step."""
    spec = importlib.util.spec_from_file_location("runner", pathlib.Path(folder) / "runner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Runner(folder)


def answer(runner, body: bytes) -> dict:
    """Samples of a request; ValueError or TypeError for what it cannot be."""
    asked = json.loads(body)
    if not isinstance(asked, dict):
        raise ValueError("The body must be a JSON object.")
    conditions = asked.get("conditions") or {}
    counts = [asked.get("num_images") or 0, *(len(values) for values in conditions.values())]
    if max(counts) > MOST_IMAGES or (asked.get("num_steps") or 0) > MOST_STEPS:
        raise ValueError(f"A request is of at most {MOST_IMAGES} samples and {MOST_STEPS} steps.")
    return {"samples": runner.generate(**asked).tolist()}


def server(runner, port: int) -> http.server.HTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 60  # of a client that sends nothing

        def do_POST(self):
            try:
                size = int(self.headers.get("Content-Length", 0))
                if self.path != "/generate" or not 0 < size <= MOST_BYTES:
                    raise ValueError(f"POST at most {MOST_BYTES} bytes of JSON to /generate.")
                status, told = 200, answer(runner, self.rfile.read(size))
            except (ValueError, TypeError, KeyError, AttributeError, FloatingPointError, RecursionError) as error:
                status, told = 400, {"error": str(error)}
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return http.server.HTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(load_runner(sys.argv[1]), int(sys.argv[2])).serve_forever()
