"""Kinetics-600 from clips that are made here: which frames come out, what is left out, and what is said about it."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import pipelines

av = pytest.importorskip("av")
pytestmark = pytest.mark.backend_free

WIDTH, HEIGHT, FRAMES, SIZE, T = 64, 48, 20, 32, 4
HEADER = "label,youtube_id,time_start,time_end,split\n"
# Each clip has its own red, and green that says the number of the frame; ids may hold "_" and "-".
CLIPS = {
    "flat_-00001_000010_000020.mp4": ("mpeg4", 40),
    "waving hand/folder00002_000003_000013.webm": ("libvpx", 80),
    "waving hand/deep/deep_000003.mkv": ("mpeg4", 120),
    "abseiling/test-000004_000000_000010.mp4": ("libx264", 160),
    "val/valid_00005_000001_000011.MP4": ("libvpx-vp9", 200),
}
ROWS = [
    "waving hand,flat_-00001,10,20,train",
    "waving hand,folder00002,3,13,train",
    "abseiling,deep_000003,7,17,train",
    "abseiling,valid_00005,1,11,validate",
    "zumba,vanished001,0,10,train",
    "zumba,vanished002,0,10,val",
]


def green(index):
    return 10 + 11 * index


def write_clip(path, codec="mpeg4", red=40, frames=FRAMES, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format={".mkv": "matroska"}.get(path.suffix), options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        for index in range(frames):
            pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            pixels[..., 0], pixels[..., 1] = red, green(index % FRAMES)
            pixels[..., 2] = (np.arange(WIDTH) * 2 + index * 4) % 128  # moves, and its mean says nothing
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def clip(folder, name="clip_000000.mp4", **options):
    """A clip and its annotation."""
    write_clip(folder / name, **options)
    (folder / "train.csv").write_text(f"{HEADER}abseiling,{name[:11]},0,10,train\n")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name, (codec, red) in CLIPS.items():
        write_clip(root / name, codec, red)
    (root / "train.csv").write_text(HEADER + "\n".join(ROWS))
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("prepared"))


def prepare(source, data_dir, **settings):
    given = {"num_frames": T, "image_size": SIZE, "encoding": "png", **settings}
    return pipelines.prepare("kinetics600", data_dir, source=source, **given)


def everything(directory, split="train"):
    """All clips [N,T,S,S,3] of a split and their labels [N]."""
    batches = list(pipelines.make_dataset(directory, split=split, batch_size=2, training=False))
    return tuple(np.concatenate([batch[key].numpy() for batch in batches]) for key in ("video", "label"))


def report_of(directory):
    return json.loads((pathlib.Path(directory) / "report.json").read_text())


def assert_frames(video, indices, red):
    """Checks by their colours which frames of which clip these are."""
    colours = video.mean(axis=(1, 2))
    np.testing.assert_allclose(colours[:, 1], [green(index) for index in indices], atol=4)
    np.testing.assert_allclose(colours[:, 0], red, atol=8)


def reason_for(source, tmp_path, **settings):
    """Why the one clip of a source is left out, when nothing else is."""
    with pytest.raises(ValueError, match="no example of the split 'train' could be made: ") as error:
        prepare(source, tmp_path / "prepared", **settings)
    return str(error.value).partition("could be made: ")[2]


def test_splits_classes_and_frames(prepared):
    description = pipelines.describe(prepared)
    assert description.class_names == ("abseiling", "waving hand", "zumba")
    assert (description.num_examples, description.num_frames, description.image_shape) == (3, T, (SIZE, SIZE, 3))
    for split, expected in {"train": {40: 1, 80: 1, 120: 0}, "validation": {200: 0}}.items():
        video, label = everything(prepared, split)
        assert video.shape == (len(expected), T, SIZE, SIZE, 3) and video.dtype == np.uint8
        for clip, number in zip(video, label, strict=True):
            red = min(expected, key=lambda red: abs(red - clip[..., 0].mean()))
            assert_frames(clip, range(8, 12), red)
            assert expected.pop(red) == number


def test_report(prepared):
    report = report_of(prepared)
    assert {split: part["examples"] for split, part in report["splits"].items()} == {"train": 3, "validation": 1}
    assert report["splits"]["train"]["per_class"] == {"0": 1, "1": 2}
    assert report["duplicates"] == 0 and report["settings"]["stride"] == 1
    assert report["notes"] == [
        "1 clips have no annotation and are left out: abseiling/test-000004_000000_000010.mp4",
        "annotations without a clip, as videos vanish from YouTube: 1 in train, 1 in validation",
    ]


def test_training_stream(prepared):
    batch = next(iter(pipelines.make_dataset(prepared, batch_size=3)))
    assert batch["video"].shape == (3, T, SIZE, SIZE, 3) and sorted(batch["label"].numpy()) == [0, 1, 1]


def test_second_call_leaves_the_files_alone(source, prepared):
    before = {path: path.stat().st_mtime_ns for path in pathlib.Path(prepared).rglob("*")}
    data_dir = pathlib.Path(prepared).parents[2]
    assert prepare(source, data_dir) == prepared
    assert {path: path.stat().st_mtime_ns for path in pathlib.Path(prepared).rglob("*")} == before
    assert os.path.basename(os.path.dirname(prepared)) == f"{source.name}-{SIZE}-png-{T}x1"


def test_tensorflow_is_not_loaded(source, tmp_path):
    code = (
        "import sys, pipelines\n"
        f"pipelines.prepare('kinetics600', {str(tmp_path)!r}, source={str(source)!r}, image_size=8, num_frames=2)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pathlib.Path(pipelines.__file__).parents[1])


@pytest.mark.parametrize(
    "num_frames, stride, expected",
    [(4, 3, range(5, 15, 3)), (1, 1, [9]), (5, 1, range(7, 12)), (10, 2, range(0, 20, 2)), (20, 1, range(20))],
)
def test_window_is_centred(num_frames, stride, expected, tmp_path):
    directory = prepare(clip(tmp_path / "source"), tmp_path, num_frames=num_frames, stride=stride)
    video, _ = everything(directory)
    assert_frames(video[0], expected, 40)


def test_windows_and_crops_are_the_same_six_of_each_clip(tmp_path):
    from PIL import Image

    from pipelines.images import adm_center_crop

    settings = {"num_frames": 3, "windows": 2, "crops": 3}
    made = []
    for workers in (1, 2):
        directory = prepare(clip(tmp_path / "source"), tmp_path / str(workers), workers=workers, **settings)
        made.append(everything(directory)[0])
    np.testing.assert_array_equal(*made)
    assert os.path.basename(os.path.dirname(directory)) == f"source-{SIZE}-png-3x1-2w3c"
    assert report_of(directory)["duplicates"] == 0
    starts, lefts = (4, 12), (0, 5, 11)  # of room 17 the middles of two halves; 43 x 32 pixels of which 32 are taken
    with av.open(str(tmp_path / "source/clip_000000.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    wide = [np.asarray(frame.resize((43, SIZE), Image.Resampling.BICUBIC)) for frame in frames]
    expected = {np.stack(wide[at : at + 3])[:, :, x : x + SIZE].tobytes() for at in starts for x in lefts}
    assert {each.tobytes() for each in made[0]} == expected and len(expected) == len(made[0])
    assert adm_center_crop(frames[0].rotate(90, expand=True), SIZE, 1.0).size == (SIZE, SIZE)
    sentence = "clip_000000.mp4: has 20 frames, and 2 windows of 20 need 21"
    assert sentence in reason_for(tmp_path / "source", tmp_path / "long", num_frames=20, windows=2, crops=3)


def test_packets_that_show_nothing(tmp_path, monkeypatch):
    from pipelines.datasets import kinetics600

    source = clip(tmp_path / "source")
    monkeypatch.setattr(kinetics600, "_count", lambda path: 60)
    assert_frames(everything(prepare(source, tmp_path))[0][0], range(8, 12), 40)


def test_jpeg_and_grey(tmp_path):
    source = clip(tmp_path / "source")
    video, _ = everything(prepare(source, tmp_path, encoding=None))
    assert_frames(video[0], range(8, 12), 40)
    grey, _ = everything(prepare(source, tmp_path, channels=1, config="grey"))
    expected = video[0].mean(axis=(1, 2)) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[0].mean(axis=(1, 2, 3)), expected, atol=2)


def test_crop_is_adms(tmp_path):
    from pipelines.images import adm_center_crop

    source = clip(tmp_path / "source")
    with av.open(str(source / "clip_000000.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    video, _ = everything(prepare(source, tmp_path))
    np.testing.assert_array_equal(video[0], [np.asarray(adm_center_crop(frame, SIZE)) for frame in frames[8:12]])


def test_too_short(tmp_path):
    source = clip(tmp_path / "source")
    assert reason_for(source, tmp_path, num_frames=21) == "clip_000000.mp4: has 20 frames, and 21 need 21"
    expected = "clip_000000.mp4: has 20 frames, and 5 at stride 5 need 21"
    assert reason_for(source, tmp_path / "strided", num_frames=5, stride=5) == expected


def test_truncated(tmp_path):
    source = clip(tmp_path / "source", movflags="faststart")
    path = source / "clip_000000.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    assert reason_for(source, tmp_path).startswith("clip_000000.mp4: is truncated or damaged after ")
    path.write_bytes(whole[:30])
    assert reason_for(source, tmp_path / "header").startswith("clip_000000.mp4: ")


def test_truncated_webm(tmp_path):
    source = clip(tmp_path / "source", "clip_000000.webm", codec="libvpx")
    path = source / "clip_000000.webm"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert "is truncated: ends after 1." in reason_for(source, tmp_path)


def test_damaged_in_the_middle(tmp_path):
    source = clip(tmp_path / "source", codec="libx264", movflags="faststart")
    path = source / "clip_000000.mp4"
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 1000
    data[start:-100] = np.random.default_rng(0).bytes(len(data) - start - 100)
    path.write_bytes(data)
    assert reason_for(source, tmp_path).startswith("clip_000000.mp4: Invalid data")


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "Invalid data"),
        (b"this is no clip\n" * 100, "Invalid data"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n", "Invalid data"),
        (b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>", "Invalid data"),
    ],
)
def test_no_clip(content, reason, tmp_path):
    source = clip(tmp_path / "source")
    (source / "clip_000000.mp4").write_bytes(content)
    assert reason_for(source, tmp_path).startswith(f"clip_000000.mp4: {reason}")


def test_sound_alone(tmp_path):
    source = clip(tmp_path / "source")
    write_sound(source / "clip_000000.mp4")
    assert reason_for(source, tmp_path) == "clip_000000.mp4: has no video stream"


def test_bad_clips_are_left_out_and_listed(source, tmp_path):
    for name in CLIPS:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, tmp_path / "source" / name)
    (tmp_path / "source/badclip0001.mp4").write_text("no clip")
    rows = [*ROWS, "zumba,badclip0001,0,10,train"]
    (tmp_path / "all.csv").write_text(HEADER + "\n".join(rows))
    directory = prepare(tmp_path / "source", tmp_path, annotations=tmp_path / "all.csv")
    part = report_of(directory)["splits"]["train"]
    assert (part["examples"], part["left_out"]) == (3, 1)
    (reason,) = part["left_out_first"]
    assert reason.startswith("badclip0001.mp4: Invalid data")
    assert len(everything(directory)[0]) == 3
    with pytest.raises(ValueError, match="badclip0001.mp4"):
        prepare(tmp_path / "source", tmp_path / "strict", annotations=tmp_path / "all.csv", max_bad_sources=0)


def listing(source, **settings):
    """{split: {path: label}} and notes, without decoding anything."""
    from pipelines.datasets.kinetics600 import Kinetics600, Kinetics600Config

    builder = Kinetics600(data_dir=source / "nowhere", config=Kinetics600Config(source=source, **settings))
    found = {split: {item.key: item.label for item in items} for split, items in builder.listing().items()}
    return found, builder.notes()


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_listing_opens_no_clip(tmp_path):
    touch(tmp_path, "flat_-00001_000010_000020.mp4", "valid_00005.webm", ".hidden_0001.mp4", "readme.txt")
    (tmp_path / "all.csv").write_text("\ufeff" + HEADER + "\n".join(ROWS))  # as Excel writes it
    found, notes = listing(tmp_path)
    assert found == {"train": {"flat_-00001_000010_000020.mp4": 1}, "validation": {"valid_00005.webm": 0}}
    assert notes == ["annotations without a clip, as videos vanish from YouTube: 3 in train, 1 in validation"]


def test_annotations_from_several_places(tmp_path):
    touch(tmp_path, "flat_-00001.mp4")
    (tmp_path / "more, and more").mkdir()
    for number, row in enumerate(ROWS):
        (tmp_path / f"more, and more/{number}.csv").write_text(HEADER + row)
    assert listing(tmp_path, annotations=tmp_path / "more, and more")[0] == {"train": {"flat_-00001.mp4": 1}}
    (tmp_path / "more, and more").rename(tmp_path / "more")
    two = f"{tmp_path}/more/0.csv, {tmp_path}/more/2.csv"
    assert listing(tmp_path, annotations=two)[0] == {"train": {"flat_-00001.mp4": 1}}
    assert listing(tmp_path, annotations=f"{tmp_path}/more/0.csv,")[0] == {"train": {"flat_-00001.mp4": 0}}


def test_another_part_of_the_video_is_another_clip(tmp_path):
    touch(tmp_path, "flat_-00001_000030_000040.mp4", "flat_-00001_000010_000020.mp4", "flat_-00001.mp4", "short.mp4")
    rows = ["waving hand,flat_-00001,10,20,train", "abseiling,flat_-00001,50,60,train"]
    (tmp_path / "all.csv").write_text(HEADER + "\n".join(rows))
    found, notes = listing(tmp_path)
    assert found == {"train": {"flat_-00001_000010_000020.mp4": 1}}
    assert notes == [
        "2 clips have no annotation and are left out: flat_-00001_000030_000040.mp4, short.mp4",
        "1 clips have several annotations that differ and are left out: flat_-00001.mp4",
    ]


def test_test_set_without_labels(tmp_path):
    touch(tmp_path, "flat_-00001.mp4", "test-000004.mp4")
    (tmp_path / "train.csv").write_text(HEADER + ROWS[0])
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\ntest-000004,0,10,test\n")
    found, notes = listing(tmp_path)
    assert found == {"train": {"flat_-00001.mp4": 0}}
    assert notes == [
        "1 clips have no label in the annotations of test and are left out: test-000004.mp4",
        "1 annotations of test have no label: what they describe is left out",
    ]
    with pytest.raises(ValueError, match="no annotation in .*test.csv has a label: give the official CSV files"):
        listing(tmp_path, annotations=tmp_path / "test.csv")


@pytest.mark.parametrize(
    "content, sentence",
    [
        ("", r"all.csv has no column youtube_id or .* or split \(it is empty\): give the official CSV files"),
        (HEADER, "all.csv holds no annotations: give the official"),
        ("label,youtube_id,split\n", r"no column time_start or time_end \(columns are label, youtube_id, split\)"),
        (HEADER + "zumba,flat_-00001,0\n", "must be seconds in line 2 of .*all.csv, got '0' and ''"),
        (HEADER + "zumba,flat_-00001,a,b,train\n", "must be seconds in line 2 of .*all.csv, got 'a' and 'b'"),
        (HEADER + "zumba,flat_-00001,0,10,\n", "youtube_id and split must be given in line 2 .* got .* and ''"),
        (HEADER + "zumba,,0,10,train\n", "youtube_id and split must be given in line 2 .* got '' and 'train'"),
        (b"\xff\xfe\x00", "all.csv is no CSV file in UTF-8"),
        (HEADER + "zumba,other_00001,0,10,train\n", "no clip in .* can be used: 1 clips have no annotation"),
    ],
)
def test_wrong_annotations(content, sentence, tmp_path):
    touch(tmp_path, "flat_-00001.mp4")
    (tmp_path / "all.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=sentence):
        listing(tmp_path)


def test_no_annotations(tmp_path):
    touch(tmp_path, "flat_-00001.mp4")
    with pytest.raises(FileNotFoundError, match=f"no CSV files in {tmp_path}: give the official CSV files, with"):
        listing(tmp_path)
    with pytest.raises(FileNotFoundError, match="annotations .*absent.csv does not exist: give the official"):
        listing(tmp_path, annotations=f"{tmp_path}/absent.csv")


def test_no_clips(tmp_path):
    (tmp_path / "all.csv").write_text(HEADER + ROWS[0])
    with pytest.raises(ValueError, match=r"no clips \(\.mp4, \.webm, \.mkv\) in "):
        listing(tmp_path)
    with pytest.raises(ValueError, match=r"source must be a folder of clips .* is a file"):
        listing(tmp_path / "all.csv")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"num_frames": 0}, "num_frames must be an integer of at least 1, got 0"),
        ({"num_frames": "4"}, "num_frames must be an integer of at least 1, got '4'"),
        ({"stride": True}, "stride must be an integer of at least 1, got True"),
        ({"windows": 0}, "windows must be an integer of at least 1, got 0"),
        ({"crops": 2}, "crops must be one of 1, 3, got 2"),
        ({"image_size": -1}, "image_size must be an integer of at least 1, got -1"),
        ({"encoding": "original"}, "encoding must be one of png, jpeg, got .original."),
        ({"encoding": "gif"}, "encoding must be one of"),
        ({"annotations": 3}, "annotations must be a path, or several joined by commas, got 3"),
        ({"annotations": " ,"}, "annotations must be a path, or several joined by commas, got ' ,'"),
        ({"frames": 3}, "kinetics600 has no setting 'frames': .*; did you mean 'num_frames'"),
    ],
)
def test_wrong_settings(settings, sentence, source, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        prepare(source, tmp_path / "prepared", **settings)
    assert not (tmp_path / "prepared").exists()


def test_other_settings_in_the_same_place(source, prepared):
    with pytest.raises(ValueError, match=r"prepared with other settings: quality=50 \(there: 95\)"):
        prepare(source, pathlib.Path(prepared).parents[2], quality=50)


def test_missing_dependency(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r'av is needed .*pip install "keras_sid2\[video\]"'):
        prepare(source, tmp_path)
