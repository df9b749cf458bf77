"""sid2-play without its page: what is asked for as flags and as Python, pictures of strangers, the queue."""

import base64
import io
import json
import re
import shlex
import struct
import threading
import zlib

import numpy as np
import pytest
from absl import flags
from helpers import BACKEND, sigmoid, tiny_network
from PIL import Image
from sample_helpers import draw
from training_helpers import tiny_model

import pipelines
from keras_sid2 import Channels
from keras_sid2.bin import flag_table, play
from keras_sid2.bin.page.drawing import Desk, Full, drawn
from keras_sid2.bin.page.models import Offered, offer, served, weighting_curve
from keras_sid2.bin.page.pictures import Kept, fitted, png
from keras_sid2.bin.page.server import is_loopback
from keras_sid2.bin.page.settings import Limits, arguments, command, flags_of, python_lines, read_settings
from keras_sid2.conditions import TextEmbedding, Vector
from keras_sid2.evaluation import ImagesDigest
from keras_sid2.io.image_reading import decode_picture, read_images

LIMITS = Limits(images=6, steps=8)
backend_free = pytest.mark.backend_free


@pytest.fixture(scope="module")
def models(workdir, unlabelled, tmp_path_factory):
    """One of classes, one of nothing, and one of texts."""
    texts = TextEmbedding(4, 8, encoder=pipelines.text_encoder("words:4x8").signature)
    path = tmp_path_factory.mktemp("texts") / "model.keras"
    tiny_model(network=tiny_network(num_classes=None, conditions={"text": texts})).save(path)
    return offer([str(workdir)], [str(unlabelled), str(path)], [])


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder `play` of the present one."""
    monkeypatch.chdir(tmp_path)
    return Kept("play")


def settings(models, kept, *sides, **shared):
    """What the page sends, read: two pictures in two steps unless told otherwise."""
    shared = {"count": 2, "seed": 3, "num_steps": 2, "model": 0, **shared}
    return read_settings({"shared": shared, "sides": list(sides) or [{}]}, models, LIMITS, kept)


def file_of(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def inpainting(kept) -> dict:
    """A picture whose upper half is painted over."""
    pixels = np.arange(0, 256, 16, "uint8").reshape(4, 4)
    name, _ = kept.keep_picture(file_of(pixels), (4, 4, 1))
    return {"known": name, "painted": b64(np.arange(16) < 8)}


def b64(painted: np.ndarray) -> str:
    return base64.b64encode(painted.astype("uint8").tobytes()).decode()


SIDES = {
    "of classes, guided": {
        **{"classes": "2, 0,1", "count": 5, "scale": 1.5, "interval": [-3, 5.5]},
        **{"sampler": "ddim", "noise_levels": "uniform_logsnr"},
    },
    "of no class": {"classes": "none", "sampler": "dpmpp_2m"},
    "of a model without classes": {"model": 1, "classes": "7"},
    "of a text, guided away from another": {"model": 2, "text": " a  red heart", "negative_text": "it's", "scale": 2.0},
    "inpainted, all classes in turn": {"resamplings": 2, "inpainted": True},
}


@backend_free
@pytest.mark.parametrize("name", SIDES)
def test_the_page_draws_what_its_command_and_its_lines_of_python_draw(name, models, kept):
    side = dict(SIDES[name])
    side |= inpainting(kept) if side.pop("inpainted", False) else {}
    (asked,) = settings(models, kept, side)
    begin, *frames, end = drawn([asked])
    assert [frame["done"] for frame in frames] == [1, 2] and frames[-1]["steps"] == 2
    program, backend, *words = shlex.split(begin["command"].replace("\\\n", ""))
    assert (program, backend) == ("sid2-sample", f"--backend={BACKEND}")
    code, said = draw(*words, "--format=npz")
    assert code == 0 and said.endswith(f"\n{asked.count} images: drawn.npz\n")
    images = read_images("drawn.npz")
    assert frames[-1]["x_hat"] == [png(image) for image in images]
    with open("drawn.npz.json") as file:
        assert json.load(file)["images_digest"] == end["digest"]
    names = {}
    exec(begin["python"], names)
    digest = ImagesDigest()
    digest.add(names["images"])
    assert digest.hexdigest() == end["digest"]
    if asked.known:
        assert (images[:, 2:] == read_images(asked.known)[:, 2:]).all()


@backend_free
def test_two_sides_share_seed_and_classes_and_are_drawn_in_turn(models, kept):
    sides = settings(models, kept, {"sampler": "ddim"}, {"scale": 2.0, "num_steps": 1}, classes="1")
    assert [each.num_steps for each in sides] == [2, 1] and {each.seed for each in sides} == {3}
    events = list(drawn(sides))
    assert [event["side"] for event in events] == [0] * 4 + [1] * 3
    assert events[0]["command"] != events[4]["command"]


@backend_free
def test_what_the_second_side_cannot_draw_is_told_before_the_first_is_drawn(models, kept):
    events = drawn(settings(models, kept, {"sampler": "ddim"}, {"scale": 2.0, "model": 1}))
    with pytest.raises(ValueError, match="Guidance needs labels"):
        next(events)


WRONG = {
    "model": (3, "The model must be a whole number from 0 to 2, got 3."),
    "count": (7, "The number of pictures must be a whole number from 1 to 6, got 7."),
    "num_steps": (9, "The number of steps must be a whole number from 1 to 8, got 9."),
    "seed": (2**32, "The seed must be a whole number from 0 to 4294967295"),
    "sampler": ("ddmp", "The sampler must be one of default, ddpm, .*, got 'ddmp'."),
    "noise_levels": ([], "Noise levels must be one of uniform_t"),
    "scale": (float("nan"), "The guidance scale must be a number from 0 to 100, got nan."),
    "interval": ([5, -3], "The interval of guidance must end above its beginning, got 5 to -3."),
    "classes": ("3", "Classes must be whole numbers from 0 to 2 with commas between, or none, or nothing, got '3'."),
    "resamplings": (17, "Resamplings must be a whole number from 1 to 16"),
    "known": ("../../etc/passwd", "The picture to inpaint is not there any more"),
}


@backend_free
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_in_one_sentence(name, models, kept):
    value, told = WRONG[name]
    with pytest.raises(ValueError, match=told):
        settings(models, kept, **{name: value})
    if name not in ("sampler", "noise_levels", "known", "classes"):
        with pytest.raises(ValueError, match=r"must be .*, got .{1,70}\.$"):
            settings(models, kept, **{name: "A" * 10_000})


@backend_free
@pytest.mark.parametrize(
    "asked", [None, [], {"shared": {}}, {"shared": 1, "sides": [{}]}, {"shared": {}, "sides": [0]}]
)
def test_a_request_of_another_form_is_refused(asked, models, kept):
    with pytest.raises(ValueError, match="The page sent no request that can be read"):
        read_settings(asked, models, LIMITS, kept)
    for sides in ([], [{}] * 3):
        with pytest.raises(ValueError, match=f"one setting or two, got {len(sides)}"):
            read_settings({"shared": {}, "sides": sides}, models, LIMITS, kept)


@backend_free
@pytest.mark.parametrize(
    "painted, told",
    [
        (None, "What was painted must be 4 x 4 pixels"),
        ("%%%", "What was painted must be 4 x 4 pixels"),
        (b64(np.full(16, 2)), "What was painted must be 4 x 4 pixels"),
        (b64(np.zeros(16)), "Nothing is painted"),
        (b64(np.ones(16)), "All is painted"),
    ],
)
def test_paint_that_says_nothing_is_refused(painted, told, models, kept):
    with pytest.raises(ValueError, match=told):
        settings(models, kept, **{**inpainting(kept), "painted": painted})


@backend_free
def test_a_scale_of_one_has_no_interval_and_numbers_are_those_of_the_command(models, kept):
    (one,) = settings(models, kept, {"scale": 1.0000001, "interval": [-3, 5]})
    assert arguments(one)[1:] == ["--num_images=2", "--seed=3", "--num_steps=2"] and "guidance" not in python_lines(one)
    (other,) = settings(models, kept, {"scale": 1.23456789, "interval": [-3.00000001, 5]})
    assert flags_of(other).guidance_scale == "1.23457" and "Guidance(1.23457, (-3, 5))" in python_lines(other)


@backend_free
def test_of_a_text_nothing_is_left_that_no_shell_passes_on(models, kept):
    given = "\x00a\x1b[31m\nred\x7f \ud800heart \N{HEAVY BLACK HEART}\ufe0f\u200d\N{FIRE}"
    (asked,) = settings(models, kept, model=2, text=given)
    assert asked.text == "a [31m red heart \N{HEAVY BLACK HEART}\ufe0f\u200d\N{FIRE}"


@backend_free
def test_a_path_that_a_shell_would_read_otherwise_is_quoted(models, kept):
    name = "--weights=a b'$(touch x);`id`.keras"
    (asked,) = settings([Offered("odd", name, models[0].model)], kept)
    assert shlex.split(command(asked).replace("\\\n", ""))[2] == name
    assert 'load_model("a b\'$(touch x);`id`.keras")' in python_lines(asked)
    assert max(map(len, command(asked).split("\n"))) <= 60


# -- models ----------------------------------------------------------------------------------------------------------


@backend_free
def test_the_curve_is_the_sigmoid_weighting_on_eps_over_the_schedule(models):
    curve = weighting_curve(models[0].model)  # of bias 0, between -10 and 10
    logsnr = np.array(curve["logsnr"])
    assert logsnr[0] in (-10.0, -10.1) and logsnr[-1] in (10.0, 10.1)  # the ends are rounded outwards
    expected = sigmoid(-logsnr)
    np.testing.assert_allclose(curve["weight"], expected / expected.max(), atol=2e-5)


@backend_free
def test_a_model_is_named_by_what_both_the_command_and_python_take(models, workdir, tmp_path, monkeypatch):
    models[1].model.save_preset(tmp_path / "shared")
    folder = str(tmp_path / "shared")
    found = [offer([], [str(workdir)], [])[0], offer([], [folder], [])[0], offer([], [], [folder])[0]]
    checkpoint = models[0].flag.partition("=")[2]
    assert [each.flag for each in found] == [f"--weights={checkpoint}", f"--preset={folder}", f"--preset={folder}"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert offer([], ["~/shared"], [])[0].flag == f"--preset={folder}"
    assert offer([], [], ["sid2_digits_trained"])[0].describe()["classes"] == 10
    loaded = [f"load_model({checkpoint!r})", *[f"keras_sid2.SiD2Model.from_preset({folder!r})"] * 2]
    assert [each.python for each in found] == loaded and found[1].sample_shape == (4, 4, 1)


@backend_free
def test_models_that_the_page_cannot_serve_are_refused(tmp_path):
    channels = Channels(("a",), (0.0,), (1.0,))
    for settings, told in (
        ({"channels": channels}, "draws fields, and the page shows pictures: use sid2-sample"),
        ({"network": tiny_network(image_shape=(4, 4, 2))}, "has 2 channels"),
        ({"network": tiny_network(conditions={"place": Vector(2)})}, "is conditioned on place, which the page has no"),
    ):
        with pytest.raises(ValueError, match=f"--weights=a.keras {told}"):
            served("--weights=a.keras", tiny_model(compiled=False, **settings))
    with pytest.raises(ValueError, match="has no configuration"):
        offer([], ["a.weights.h5"], [])
    with pytest.raises(FileNotFoundError, match="--workdir=.* holds no checkpoints"):
        offer([str(tmp_path)], [], [])


def played(*given: str):
    values = flags.FlagValues()
    flag_table.define(play.PlayFlags, values)
    return play.main(values(["sid2-play", *given]) and values)


@backend_free
def test_wrong_flags_are_told_before_the_page_is_served(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(play.signals, "end_at_once", lambda usage: None)
    for given, told in (
        (["--preset=none/there"], "--preset=none/there is no folder"),
        (["--port=70000"], "--port must be from 0"),
        (["--most_images=65"], "--most_images must be from 1 to 64"),
        ([f"--workdir={workdir}", "--host=no.such.host.invalid"], "--host=no.such.host.invalid --port=7860 cannot be"),
    ):
        with pytest.raises(ValueError, match=told):
            played(*given)


@backend_free
def test_which_addresses_are_this_machine_s_own():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "192.168.1.2", "localhost.example.org")))


# -- pictures --------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header_of(width: int, height: int) -> bytes:
    """A PNG that says it is large, and has no pixels."""
    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), "uint8")


@backend_free
@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "The picture is no PNG or JPEG that can be read."),
        (b"<script>alert(1)</script>", "The picture is no PNG or JPEG that can be read."),
        (file_of(COLOURS)[:-30], "The picture is no PNG or JPEG that can be read."),
        (file_of(COLOURS, "BMP"), "The picture is no PNG or JPEG that can be read."),
        (file_of(np.zeros((2, 2), "uint16")), "The picture must be grey or in colour, of 8 bits, got I;16."),
        (header_of(5000, 5000), "The picture has 5000 x 5000 pixels, more than the 1000000 that are taken."),
        (header_of(100_000, 100_000), "The picture has more than the 1000000 pixels that are taken."),
    ],
    ids=["nothing", "text", "cut off", "another format", "16 bits", "large", "a bomb"],
)
def test_pictures_that_are_none_or_too_large_are_refused_in_one_sentence(data, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        decode_picture(data, most_pixels=1_000_000)


@backend_free
def test_pictures_are_decoded_to_the_bit_turned_and_put_on_white():
    np.testing.assert_array_equal(decode_picture(file_of(COLOURS), 24), COLOURS)
    np.testing.assert_array_equal(decode_picture(file_of(COLOURS[..., 0]), 24), COLOURS[..., :1])
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees, clockwise
    np.testing.assert_array_equal(decode_picture(file_of(COLOURS, exif=turned), 24), np.rot90(COLOURS, -1))
    clear = np.concatenate([COLOURS, np.full((6, 4, 1), 255, "uint8")], axis=-1)
    clear[0, 0, 3] = 0
    found = decode_picture(file_of(clear), 24)
    assert (found[0, 0] == 255).all() and (found[1:] == COLOURS[1:]).all()
    photograph = np.full((8, 8, 3), 90, "uint8")
    np.testing.assert_allclose(decode_picture(file_of(photograph, "JPEG"), 64), photograph, atol=1)


@backend_free
def test_an_upload_is_cut_in_the_middle_resized_and_brought_to_the_model_s_channels():
    wide = np.zeros((4, 12, 3), "uint8")
    wide[:, 4:8] = 200  # the square in the middle
    np.testing.assert_array_equal(fitted(wide, (4, 4, 1)), np.full((4, 4, 1), 200))
    np.testing.assert_array_equal(fitted(np.full((9, 7, 1), 77, "uint8"), (2, 3, 1)), np.full((2, 3, 1), 77))
    same = COLOURS[..., :1]
    np.testing.assert_array_equal(fitted(same, (6, 4, 3)), np.repeat(same, 3, axis=-1))
    assert fitted(COLOURS, (64, 64, 3)).shape == (64, 64, 3)
    assert fitted(np.zeros((58, 29, 1), "uint8"), (28, 28, 1)).shape == (28, 28, 1)  # 28 (29 / 28) is above 29


@backend_free
@pytest.mark.parametrize("name", [None, 3, "", "..", "../known-0123456789abcdef.png", "/etc/passwd", "secret.png"])
def test_no_name_leads_out_of_the_folder(name, kept):
    kept.folder.mkdir()
    (kept.folder / "secret.png").write_bytes(b"")
    (kept.folder.parent / "known-0123456789abcdef.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is not there any more"):
        kept.known(name)


@backend_free
def test_the_newest_pictures_are_kept_and_nothing_of_others_is_removed(kept, monkeypatch):
    monkeypatch.setattr("keras_sid2.bin.page.pictures._FILES", 2)
    kept.folder.mkdir()
    (kept.folder / "mine.png").write_bytes(b"mine")
    names = {kept.keep_picture(file_of(np.full((4, 4), grey, "uint8")), (4, 4, 1))[0] for grey in range(4)}
    there = {path.name for path in kept.folder.iterdir()}
    assert "mine.png" in there and len(there & names) == 2 and len(there) == 3


@backend_free
def test_two_who_send_pictures_at_once_do_not_mind_what_the_other_removes(kept, monkeypatch):
    monkeypatch.setattr("keras_sid2.bin.page.pictures._FILES", 1)
    listed, first = type(kept.folder).iterdir, file_of(np.zeros((4, 4), "uint8"))

    def listed_before_another_removes(folder):
        found = list(listed(folder))
        for path in found[:-1]:
            path.unlink()
        return iter(found)

    kept.keep_picture(first, (4, 4, 1))
    monkeypatch.setattr(type(kept.folder), "iterdir", listed_before_another_removes)
    kept.keep_picture(file_of(np.full((4, 4), 9, "uint8")), (4, 4, 1))
    assert len(list(listed(kept.folder))) == 1


# -- the queue -------------------------------------------------------------------------------------------------------


def events_of(job) -> list:
    return list(iter(lambda: job.events.get(timeout=60), None))


@backend_free
def test_jobs_are_done_in_order_and_what_nobody_wants_stops(capfd):
    desk, ended, goes_on = Desk(most_waiting=2), [], threading.Event()

    def work(name, count):
        try:
            for i in range(count):
                yield {name: i}
                goes_on.wait(60)
        finally:
            ended.append(name)

    def broken():
        yield {}
        raise RuntimeError("secret")

    first = desk.submit(work("first", 10**9))
    assert first.events.get(timeout=60) == {"first": 0}
    second, third = desk.submit(work("second", 3)), desk.submit(broken())
    assert (desk.ahead_of(first), desk.ahead_of(second), desk.ahead_of(third)) == (None, 0, 1)
    with pytest.raises(Full, match="2 requests are waiting already"):
        desk.submit(work("fourth", 1))
    second.gone.set()  # while it waits
    fourth = desk.submit(work("fourth", 2))
    first.gone.set()  # in the midst
    goes_on.set()
    (_, fault), last = events_of(third), events_of(fourth)
    assert last == [{"fourth": 0}, {"fourth": 1}] and ended == ["first", "fourth"]
    assert fault == {"error": "This failed by a fault of the program, which the terminal that runs sid2-play shows."}
    assert "RuntimeError: secret" in capfd.readouterr().err
