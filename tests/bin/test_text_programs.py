"""Texts in sid2-train, sid2-sample and sid2-evaluate: from a folder with captions to pictures with prompts."""

import json
import re

import keras
import numpy as np
import pytest
import text_models
from evaluate_helpers import evaluate
from helpers import is_adapted, tiny_network
from run_helpers import run_in
from sample_helpers import draw
from training_helpers import tiny_model

import pipelines
from keras_sid2.bin.clip import clip_features, texts_of_samples
from keras_sid2.bin.run_callbacks import RunCallbacks
from keras_sid2.conditions import TextEmbedding
from keras_sid2.io.image_files import image_grid, write_npz, write_png
from keras_sid2.io.image_reading import read_images
from keras_sid2.layers import TokenWhitening

WORDS = pipelines.text_encoder("words:8x16")
CAPTIONS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("cat", "dog", "heart", "cup")]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    """A data set of eight 4 x 4 pictures in two splits, whose names are their captions."""
    root = tmp_path_factory.mktemp("captioned")
    for split in ("train", "test"):
        for i, caption in enumerate(CAPTIONS):
            picture = np.full((4, 4, 3), 20 * i + 5 * (split == "test"), "uint8")
            (root / "source" / split).mkdir(parents=True, exist_ok=True)
            write_png(root / "source" / split / f"{caption.replace(' ', '_')}.png", picture)
    how = {"captions": "names", "text_encoder": "words:8x16", "image_size": 4}
    return pipelines.prepare("image_folder", root / "data", source=str(root / "source"), **how)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A .keras file of a model of colour pictures that reads texts of WORDS."""
    path = tmp_path_factory.mktemp("reader") / "model.keras"
    text = {"text": TextEmbedding(8, 16, WORDS.signature)}
    tiny_model(network=tiny_network(image_shape=(4, 4, 3), num_classes=None, conditions=text)).save(path)
    return path


# -- training --------------------------------------------------------------------------------------------------------


def test_a_proposed_network_reads_the_data_s_texts_and_grids_have_held_out_captions(captioned, tmp_path):
    how = {"preset": None, "size": "tiny", "eval_split": "test", "batch_size": 8, "sample_every": 2, "sample_steps": 2}
    run = run_in(captioned, tmp_path / "run", **how)
    assert run.preset.conditions == {"text": TextEmbedding(8, 16, WORDS.signature, whitened=True)}
    assert run.preset.label_dropout == 0.1
    whitening, expected = run.load_or_make_model(None).network.whitening, TokenWhitening()
    texts = WORDS(CAPTIONS)  # an epoch is one of each
    expected.build(texts.shape)
    expected.adapt(texts)
    for mine, other in zip(whitening.weights, expected.weights, strict=True):
        np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (mine, other)), atol=1e-4)
    asked = RunCallbacks(run)._drawn_for(16, 0, held_out=True)
    texts = asked["generate_options"]["conditions"]["text"]
    np.testing.assert_array_equal(texts, WORDS(asked["captions"]))
    assert asked["captions"][:8] == pipelines.read_captions(captioned, 8, split="test")
    assert sorted(asked["captions"][:8]) == sorted(CAPTIONS)


@pytest.mark.backend_free
def test_a_run_of_before_there_was_whitening_goes_on(captioned, tmp_path):
    how = {"preset": None, "size": "tiny", "batch_size": 8}
    run = run_in(captioned, tmp_path, **how)
    run.train()
    path = tmp_path / "preset.json"
    told = path.read_text()
    assert '"whitened": true' in told
    path.write_text(re.sub(r',\s*"whitened": true', "", told))
    assert run_in(captioned, tmp_path, **how).preset.conditions["text"].whitened  # and is not refused


def preset_of(tmp_path, encoder: str, length: int = 3, whitened: bool = False) -> str:
    """A --config file of a preset whose network reads texts by `encoder`."""
    path = tmp_path / f"preset_{whitened}.py"
    path.write_text(
        "import dataclasses\n"
        "from keras_sid2.conditions import TextEmbedding\n"
        "from keras_sid2.training import find_preset\n"
        "full = find_preset('sid2_digits')\n"
        "level = {'kind': 'transformer', 'channels': 16, 'blocks': 1, 'head_dim': 8}\n"
        f"network = {{'image_shape': (4, 4, 3), 'patch_size': 1, 'num_classes': None, 'embedding_dim': 16, 'levels': "
        f"(level,), 'conditions': {{'text': TextEmbedding({length}, 16, {encoder!r}, {whitened})}}}}\n"
        "preset = dataclasses.replace(full, name='reads', network=network)\n"
    )
    return str(path)


@pytest.mark.backend_free
def test_an_open_preset_takes_the_encoder_of_the_data_and_another_one_is_refused(captioned, tmp_path):
    open_one = preset_of(tmp_path, "")
    run = run_in(captioned, tmp_path / "run", preset=None, config=open_one, batch_size=8)
    assert run.preset.conditions["text"] == TextEmbedding(8, 16, WORDS.signature)
    closed = preset_of(tmp_path, "minilm@8#0123", length=8)
    sentence = "reads text by the encoder minilm@8#0123, and --data=.* has it by words:8x16#.*--text_encoder=minilm@8"
    with pytest.raises(ValueError, match=sentence):
        run_in(captioned, tmp_path / "run", preset=None, config=closed, batch_size=8)


# -- sampling --------------------------------------------------------------------------------------------------------

FEW = ("--num_steps=2", "--batch_size=2")


@pytest.mark.backend_free
def test_texts_are_drawn_in_turn_and_told(reader, tmp_path):
    out = tmp_path / "drawn"
    texts = ("--text=a red cat", "--text=a blue dog")
    how = ("--num_images=5", "--guidance_scale=2", "--negative_text=a cup", f"--out={out}", *FEW)
    code, said = draw(f"--weights={reader}", *texts, *how)
    assert code == 0 and "5 images" in said
    told = json.loads((tmp_path / "drawn.npz.json").read_text())
    assert told["prompts"] == ["a red cat", "a blue dog"] and told["negative_prompt"] == "a cup"
    assert told["text_encoder"] == WORDS.signature and texts_of_samples(told)[2:] == [*told["prompts"], "a red cat"]
    from keras_sid2 import Guidance
    from keras_sid2.checkpoints import load_model

    model = load_model(reader)
    asked = [told["prompts"][i % 2] for i in range(5)]
    negative = {"guidance": Guidance(2.0), "negative_text": "a cup"}
    expected = model.generate(text=asked, text_encoder=WORDS, num_steps=2, batch_size=2, **negative)
    found = read_images(f"{out}.npz")
    assert np.abs(found.astype(int) - expected).max() <= 1
    code, said = draw(f"--weights={reader}", *texts, *how)  # it is there already
    assert "5 of 5 images are there already" in said
    file = tmp_path / "texts.txt"
    file.write_text("a blue dog\n\na red cat\n")
    draw(f"--weights={reader}", f"--text_file={file}", "--num_images=2", "--first_image=1", f"--out={out}_2", *FEW)
    told = json.loads((tmp_path / "drawn_2.npz.json").read_text())
    assert texts_of_samples(told) == ["a red cat", "a blue dog"]


@pytest.mark.backend_free
def test_a_text_is_whitened_by_what_is_read_first_and_never_later(captioned, tmp_path):
    """--init_from goes on as its network learnt to read."""
    how = {"preset": None, "batch_size": 8, "checkpoint_every": 4}
    for whitened in (True, False):
        config = preset_of(tmp_path, WORDS.signature, 8, whitened)
        first = run_in(captioned, tmp_path / f"first_{whitened}", config=config, **how).train()
        config = preset_of(tmp_path, WORDS.signature, 8, True)
        again = {"config": config, "init_from": str(tmp_path / f"first_{whitened}"), **how}
        network = run_in(captioned, tmp_path / f"second_{whitened}", **again).load_or_make_model(None).network
        assert is_adapted(network.whitening) == whitened
        if whitened:
            for mine, its in zip(network.whitening.weights, first.network.whitening.weights, strict=True):
                np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (mine, its)))


WRONG = {
    "nothing to say": (("--text= ",), "--text is empty"),
    "two ways": (("--text=a", "--text_file=x"), "--text and --text_file both say"),
    "fewer images": (
        ("--text=a", "--text=b", "--num_images=1"),
        "--text is given 2 times and --num_images=1: leave it out, or give --num_images=2 or more",
    ),
    "no file": (("--text_file=nowhere.txt",), "--text_file=nowhere.txt is no file"),
    "an array, too": (
        ("--text=a", "--condition=text={text}"),
        "--text and --condition=text=FILE both say",
    ),
    "no guidance": (("--text=a", "--negative_text=b"), "--negative_text does nothing at --guidance_scale=1"),
    "an encoder for nothing": (("--text_encoder=words",), "--text_encoder does nothing without --text"),
    "another encoder": (
        ("--text=a", "--text_encoder=words"),
        "made for texts by words:8x16#.*--text_encoder=words is",
    ),
    "no encoder": (("--text=a", "--text_encoder=wrods"), "unknown text encoder 'wrods'"),
    "too long": (("--text=" + "a " * 9,), "has 9 tokens, and words:8x16 takes 8"),
    "too long a negative": (("--text=a", "--guidance_scale=2", "--negative_text=" + "a " * 9), "has 9 tokens"),
}


@pytest.mark.backend_free
@pytest.mark.parametrize("case", WRONG)
def test_wrong_texts_are_refused_before_anything_is_drawn(case, reader, tmp_path):
    flags, sentence = WRONG[case]
    np.save(tmp_path / "text.npy", np.zeros((8, 16), "float32"))
    flags = [flag.format(text=tmp_path / "text.npy") for flag in flags]
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        draw(f"--weights={reader}", *flags, f"--out={tmp_path / 'out'}", *FEW)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.backend_free
def test_files_of_texts_that_are_none_and_models_without_texts(unlabelled, reader, tmp_path):
    file = tmp_path / "texts.txt"
    for data, sentence in ((b"\n \n", "has no line with a text"), ("\xe4".encode("latin-1"), "is not UTF-8")):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=sentence):
            draw(f"--weights={reader}", f"--text_file={file}", f"--out={tmp_path / 'out'}", *FEW)
    with pytest.raises(ValueError, match="--text is for models of one text, and this model's conditions are none"):
        draw(f"--weights={unlabelled}", "--text=a cat", f"--out={tmp_path / 'out'}", *FEW)
    text = {"text": TextEmbedding(8, 16)}
    open_one = tmp_path / "open.keras"
    tiny_model(network=tiny_network(image_shape=(4, 4, 3), num_classes=None, conditions=text)).save(open_one)
    with pytest.raises(ValueError, match="does not say what encoded its texts: give --text_encoder"):
        draw(f"--weights={open_one}", "--text=a cat", f"--out={tmp_path / 'out'}", *FEW)
    long = (f"--weights={open_one}", "--text=a", "--text=b", "--text=" + "a " * 9, "--text_encoder=words:9x16")
    with pytest.raises(ValueError, match="has 9 tokens, and this model reads 8: shorten it"):
        draw(*long, f"--out={tmp_path / 'out'}", *FEW)
    assert not list(tmp_path.glob("out*"))
    code, _ = draw(f"--weights={open_one}", "--text=a", "--text_encoder=words:8x16", f"--out={tmp_path / 'out'}", *FEW)
    assert code == 0


@pytest.mark.backend_free
def test_prompts_below_pictures_are_broken_cut_and_of_any_script():
    images = np.zeros((2, 4, 4, 3), "uint8")
    assert image_grid(images, ["1", "2"]).shape == (64 + 4 + 14, 2 * 68, 3)  # as labels always were
    lines = image_grid(images, ["a cat", "a red cat above two blue dogs and a heart " * 3])
    assert lines.shape == (64 + 4 + 14 + 3 * 12, 2 * 68, 3)
    assert (lines[66:, :2] == 255).all() and (lines[66:, -2:] == 255).all()  # nothing runs into the margin
    assert (lines[80:, 68:] < 128).any()
    for text in (
        "\u0434\u043e\u043c \u2764\ufe0f \u732b",
        "\u05d1\u05d9\u05ea",
        "x" * 500,
        "a\nb\tc",
        "\U0001f600" * 40,
        "",
    ):
        image_grid(images, [text, "a"])


# -- CLIP ------------------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
def test_clip_s_features_and_score_are_those_of_transformers(tmp_path):
    import torch

    folder, package = text_models.save_clip(tmp_path / "clip"), text_models.transformers()
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 20, 3), "uint8")
    texts = [f"a {colour}" for colour in ("red", "blue", "dog", "cat")] * 10
    model, tokenizer = package.CLIPModel.from_pretrained(folder), package.AutoTokenizer.from_pretrained(folder)
    prepare = package.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    pixels = prepare([image for image in images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        out = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    features = clip_features(str(folder))
    ours, theirs = features(images)[0], out.image_embeds.numpy()
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    assert np.abs(ours - theirs).max() < 2e-2  # its resizing may be torchvision's and not Pillow's
    of_texts = features.of_texts(texts)
    np.testing.assert_allclose(
        of_texts / np.linalg.norm(of_texts, axis=1, keepdims=True), out.text_embeds.numpy(), rtol=1e-4, atol=1e-5
    )
    from keras_sid2.evaluation import reference_of
    from keras_sid2.evaluation.signature import evaluate as measured

    real = reference_of(lambda: [images[::-1]], features, name="real")
    found = measured([images[:15], images[15:]], features=features, reference=real, texts=of_texts)
    cosines = 100 * np.maximum((out.image_embeds * out.text_embeds).sum(-1).numpy(), 0)
    assert found.metrics["clip_score"] == pytest.approx(cosines.mean(), abs=0.3)
    width = found.metrics["clip_score_high"] - found.metrics["clip_score_low"]
    assert width == pytest.approx(2 * 1.96 * cosines.std(ddof=1) / 40**0.5, rel=0.05, abs=1e-3)
    assert "features=clip" in found.signature() and f"features_digest={features.digest}" in found.signature()
    with pytest.raises(ValueError, match="39 texts for 40 images|one an image"):
        measured([images], features=features, reference=real, texts=of_texts[:39])
    with pytest.raises(ValueError, match="holds a bert, and no CLIP"):
        clip_features(str(text_models.save_bert(tmp_path / "bert")))


@pytest.mark.backend_free
def test_sid2_evaluate_scores_samples_by_their_prompts_and_models_by_captions(captioned, reader, tmp_path, capsys):
    clip = text_models.save_clip(tmp_path / "clip")
    out = tmp_path / "drawn"
    draw(f"--weights={reader}", "--text=a red cat", "--num_images=20", f"--out={out}", "--num_steps=2")
    how = (f"--reference={captioned}", "--split=train,test", "--features=clip", f"--clip={clip}")
    assert evaluate(tmp_path, f"--samples={out}.npz", f"--out={tmp_path / 'a'}", *how) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    features = clip_features(str(clip))
    images, (text,) = features(read_images(f"{out}.npz"))[0], features.of_texts(["a red cat"])
    cosines = images @ text / np.linalg.norm(images, axis=1) / np.linalg.norm(text)
    assert told["metrics"]["clip_score"] == pytest.approx(100 * np.maximum(cosines, 0).mean(), rel=1e-4)
    assert told["drawn"]["prompts"] == ["a red cat"]
    for others in (read_images(f"{out}.npz")[::-1], np.repeat(read_images(f"{out}.npz"), 2, 0)):
        write_npz(tmp_path / "other.npz", others)
        (tmp_path / "other.npz.json").write_text((tmp_path / "drawn.npz.json").read_text())
        evaluate(tmp_path, f"--samples={tmp_path / 'other.npz'}", f"--out={tmp_path / 'b'}", *how)
        told = json.loads((tmp_path / "b.json").read_text())
        assert "clip_score" not in told["metrics"] and "texts" not in told["measured"]
    evaluate(tmp_path, f"--weights={reader}", "--num_steps=2", "--num_images=20", f"--out={tmp_path / 'c'}", *how)
    assert "clip_score" in json.loads((tmp_path / "c.json").read_text())["metrics"]
    with pytest.raises(ValueError, match="--features=clip needs --clip"):
        evaluate(tmp_path, f"--samples={out}.npz", f"--out={tmp_path / 'd'}", *how[:-1])
