"""sid2-play as visitors have it: in a real browser, and by whatever else may be sent to it."""

import base64
import contextlib
import http.client
import io
import json
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
import urllib.parse
import zlib

import numpy as np
import pytest
from PIL import Image
from sample_helpers import command, draw

from keras_sid2.bin.page.server import HEADER
from keras_sid2.io.image_reading import read_images

pytestmark = [pytest.mark.backend_free, pytest.mark.slow]
OURS = {HEADER: "1"}


@contextlib.contextmanager
def playing(workdir, folder):
    """(process, its address) of a page on a port that is free."""
    words = command(f"--workdir={workdir}", "--port=0", "--queue=2", "--most_steps=100000", program="play")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=folder, **pipes) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("sid2-play: http://127.0.0.1:"), process.communicate()
            yield process, said.split()[1]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("played")


@pytest.fixture(scope="module")
def url(workdir, folder):
    with playing(workdir, folder) as (_, found):
        yield found


def connection(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=120)


def answer(url: str, method: str, path: str, body=None, headers=OURS) -> tuple[int, bytes]:
    asked = connection(url)
    asked.request(method, path, body, headers)
    found = asked.getresponse()
    return found.status, found.read()


def request(*sides: dict, **shared) -> bytes:
    shared = {"count": 2, "seed": 0, "num_steps": 2, "model": 0, **shared}
    return json.dumps({"shared": shared, "sides": list(sides) or [{}]}).encode()


def digests(url: str, body: bytes) -> list[str]:
    status, lines = answer(url, "POST", "/draw", body)
    assert status == 200
    return [event["digest"] for event in map(json.loads, lines.splitlines()) if "digest" in event]


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium, without the network's services of its own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the extra browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"there is no {', '.join(names)}")
    quiet = "quic background-networking component-update sync gpu".split()
    args = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(profile, executable_path=found, args=args)
        yield context
        context.close()


@pytest.fixture
def page(browser, url):
    """The page; no fault of its script, and no request elsewhere, is overlooked."""
    page, faults, asked = browser.new_page(), [], []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector(".side")
    page.fill("#count", "3")
    for field in page.locator(".num_steps").all():
        field.evaluate("(field) => { field.value = 3; }")
    yield page
    page.close()
    assert not faults and all(each.startswith((url, "data:")) for each in asked)


def press_draw(page):
    page.click("#draw")
    page.wait_for_selector("#draw:not([disabled])")
    assert page.inner_text("#status") == "Done.", page.inner_text("#error")


def shown(side) -> list[np.ndarray]:
    """The pictures of a side, to the bit."""
    sources = [each.get_attribute("src").partition(",")[2] for each in side.locator("figure img").all()]
    return [np.array(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


def drawn_by_the_command(side, folder, monkeypatch) -> np.ndarray:
    """What the command that is shown draws, uint8 [N, H, W]."""
    monkeypatch.chdir(folder)
    program, _, *words = shlex.split(side.locator(".command").inner_text().replace("\\\n", ""))
    assert program == "sid2-sample" and draw(*words)[0] == 0
    return read_images("drawn.npz")[..., 0]


def test_two_settings_are_drawn_and_are_what_their_commands_and_lines_draw(page, folder, monkeypatch):
    page.check("#compare")
    page.fill("#classes", "2, 0")
    second = page.locator(".side").nth(1)
    second.locator(".sampler").select_option("dpmpp_2m")
    for name, value in (("scale", "2.5"), ("low", "-3"), ("high", "5")):
        second.locator(f".{name}").fill(value)
    press_draw(page)
    first, images = page.locator(".side").nth(0), []
    for side in (first, second):
        images.append(drawn_by_the_command(side, folder, monkeypatch))
        np.testing.assert_array_equal(shown(side), images[-1])
        names = {}
        exec(side.locator(".python").inner_text(), names)
        np.testing.assert_array_equal(names["images"][..., 0], images[-1])
    assert (images[0] != images[1]).any()
    told = second.locator(".command").inner_text()
    assert "--guidance_scale=2.5 --guidance_interval=-3,5" in told.replace("\\\n    ", "") and "--labels=2,0,2" in told
    first.locator(".frame").fill("0")  # how they came about
    assert first.locator(".step").inner_text() == "step 1 of 3" and (shown(first) != images[0]).any()


def test_a_drawn_picture_is_repainted_by_brush(page, folder, monkeypatch):
    press_draw(page)
    side = page.locator(".side").nth(0)
    before = shown(side)[1]
    side.locator("figcaption button").nth(1).click()
    page.wait_for_selector("#brushing", state="visible")
    page.fill("#brush", "1")
    canvas = page.locator("#painted")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for row in range(4):  # the left column
        page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] * (row + 0.5) / 4)
        page.mouse.down()
        page.mouse.up()
    page.fill("#seed", "9")
    press_draw(page)
    images = shown(side)
    np.testing.assert_array_equal(images, drawn_by_the_command(side, folder, monkeypatch))
    assert all((image[:, 1:] == before[:, 1:]).all() for image in images)
    assert any((image[:, 0] != before[:, 0]).any() for image in images)


def bomb() -> bytes:
    """A PNG that says it has 20000 x 20000 pixels."""
    parts = {b"IHDR": struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(10**6))}
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + struct.pack(">I", 0) + b"IEND\xaeB`\x82"


@pytest.mark.parametrize(
    "name, data, told",
    [
        ("text.png", b"<b>no picture</b>", "The picture is no PNG or JPEG that can be read."),
        ("bomb.png", bomb(), "The picture has more than the 40000000 pixels that are taken."),
        ("long.png", bytes(2**20 + 1), "That is more than the 1 MiB that are taken."),
    ],
    ids=["text", "a bomb", "too long"],
)
def test_a_wrong_upload_is_told_in_one_sentence_and_the_page_goes_on(page, name, data, told):
    page.locator("summary").click()
    page.evaluate("() => { state.most_bytes = 2 ** 20; }")  # as 20 MiB take a test half a minute
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    page.wait_for_selector("#error", state="visible")
    assert page.inner_text("#error") == told
    press_draw(page)
    assert not page.is_visible("#error") and len(shown(page.locator(".side").nth(0))) == 3


def test_what_is_wrong_is_told_and_stop_stops(page):
    page.fill("#classes", "7")
    page.click("#draw")
    page.wait_for_selector("#error", state="visible")
    assert page.inner_text("#error").startswith("Classes must be whole numbers from 0 to 2")
    page.fill("#classes", "")
    page.locator(".num_steps").nth(0).fill("100000")
    page.click("#draw")
    page.wait_for_selector("#stop:not([disabled])")
    page.click("#stop")
    page.wait_for_selector("#draw:not([disabled])")
    assert page.inner_text("#status") == "Stopped."


def test_a_program_that_ends_in_the_midst_is_told(browser, workdir, tmp_path):
    with playing(workdir, tmp_path) as (process, url):
        page = browser.new_page()
        page.goto(url)
        page.fill(".num_steps", "100000")
        page.click("#draw")
        page.wait_for_selector(".code", state="visible")
        process.send_signal(signal.SIGINT)
        page.wait_for_selector("#error", state="visible")
        assert "does sid2-play still run?" in page.inner_text("#error") and page.inner_text("#status") == ""
        page.close()


def test_a_phone_s_width_is_enough(page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.check("#compare")
    press_draw(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390


# -- by other means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.css/../../settings.py",
        "/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/settings.py",
        "/play/",
        "/state?x=/etc/passwd",
        "/page.js%00",
        "\\..\\..\\etc\\passwd",
    ],
)
def test_no_path_reads_a_file_of_the_host(url, path):
    for method in ("GET", "POST"):
        status, body = answer(url, method, path, b"" if method == "POST" else None)
        assert status == 404 and json.loads(body) == {"error": "There is nothing here."}


def test_only_the_page_itself_is_answered(url):
    assert answer(url, "GET", "/", headers={"Host": "evil.example:80"})[0] == 403
    assert answer(url, "POST", "/draw", request(), headers={})[0] == 403
    assert answer(url, "POST", "/draw", request(), headers={**OURS, "Host": "evil.example"})[0] == 403
    for host in ("127.0.0.1", "localhost:8000"):  # as browsers have it at --port=80, and behind a tunnel
        assert answer(url, "GET", "/", headers={"Host": host})[0] == 200
    asked = connection(url)
    asked.request("GET", "/")
    headers = asked.getresponse().headers
    assert "default-src 'none'" in headers["Content-Security-Policy"] and "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "path, body, told",
    [
        ("/draw", b"[" * 100_000, "The page sent no request that can be read"),
        ("/draw", request(num_steps=10**9), "The number of steps must be"),
        ("/draw", request({"model": "../.."}), "The model must be"),
        ("/draw", request(known="../../etc/passwd"), "The picture to inpaint is not there any more"),
        ("/upload?model=7", b"", "There is no such model."),
        ("/upload?model=0", b"\x89PNG", "The picture is no PNG or JPEG"),
    ],
)
def test_an_error_is_one_sentence(url, path, body, told):
    status, found = answer(url, "POST", path, body)
    assert status == 400 and json.loads(found)["error"].startswith(told) and b"Traceback" not in found


def test_a_body_that_is_too_long_or_of_no_length_is_not_read(url):
    for length, status in ((str(2**40), 413), ("9" * 5000, 413), ("-1", 411), ("x", 411)):
        asked = connection(url)
        asked.putrequest("POST", "/draw")
        for name, value in {**OURS, "Content-Length": length}.items():
            asked.putheader(name, value)
        asked.endheaders()
        assert asked.getresponse().status == status


def test_two_clients_at_once_get_each_their_own(url):
    bodies = [request({}, {"sampler": "ddim"}, seed=seed) for seed in (1, 2)]
    alone, together = [digests(url, body) for body in bodies], [None, None]

    def ask(i):
        together[i] = digests(url, bodies[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone and len({*alone[0], *alone[1]}) == 4


def begin_long(url: str) -> socket.socket:
    """A client that has seen the first event of what takes hours."""
    client = socket.create_connection(urllib.parse.urlsplit(url).netloc.split(":"), timeout=120)
    body = request(num_steps=100_000, count=16)
    head = f"POST /draw HTTP/1.0\r\n{HEADER}: 1\r\nHost: {urllib.parse.urlsplit(url).netloc}\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    received = b""
    while b'"side"' not in received:
        received += client.recv(65536)
    return client


def test_when_a_client_goes_away_its_work_stops_and_the_queue_goes_on(url):
    before = digests(url, request())
    begin_long(url).close()
    assert digests(url, request()) == before


def test_ctrl_c_ends_it_at_once_in_the_midst_of_drawing(workdir, tmp_path):
    with playing(workdir, tmp_path) as (process, url), begin_long(url):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().splitlines()[-1] == "sid2-play: interrupted."
