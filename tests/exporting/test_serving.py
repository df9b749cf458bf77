"""examples/serving/onnx_server.py over HTTP: what it draws, and what it refuses."""

import http.client
import importlib.util
import json
import pathlib
import threading

import numpy as np
import pytest
from exporting_helpers import Here

import keras_sid2

pytestmark = pytest.mark.backend_free

EXAMPLE = pathlib.Path(keras_sid2.__file__).parents[1] / "examples" / "serving" / "onnx_server.py"


@pytest.fixture(scope="module")
def port(model):
    spec = importlib.util.spec_from_file_location("onnx_server", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    server = example.server(Here(model), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def ask(port: int, body, path: str = "/generate") -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", path, body if isinstance(body, str) else json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_it_refuses_too_long_a_body_before_reading_it(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/generate", b"", {"Content-Length": str(2**20 + 1)})
    answer = connection.getresponse()
    assert answer.status == 400 and "1048576 bytes" in json.loads(answer.read())["error"]


def test_it_answers_with_what_generate_draws(port, model):
    status, told = ask(port, {"conditions": {"label": [0, 1]}, "num_steps": 6, "seed": 7})
    expected = model.generate(labels=[0, 1], num_steps=6, seed=7)
    assert status == 200 and expected.std() > 10
    assert np.abs(np.array(told["samples"]) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "body, path, sentence",
    [
        ({"conditions": {"label": [3]}}, "/generate", "from 0 to 2"),
        ({"conditions": {"label": [0] * 65}}, "/generate", "at most 64"),
        ({"conditions": {"label": [0]}, "num_steps": 5000}, "/generate", "1024 steps"),
        ({"conditions": {"label": [0]}, "file": "/etc/passwd"}, "/generate", "unexpected keyword"),
        ({"conditions": [1]}, "/generate", ""),
        ("[1", "/generate", "Expecting"),
        ([1], "/generate", "JSON object"),
        ("[" * 100_000, "/generate", "recursion"),
        ({}, "/other", "to /generate"),
    ],
)
def test_it_refuses_and_goes_on(port, body, path, sentence):
    status, told = ask(port, body, path)
    assert status == 400 and sentence in told["error"]
    assert ask(port, {"conditions": {"label": [1]}, "num_steps": 1})[0] == 200
