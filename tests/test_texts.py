"""Texts in training, guidance and `generate`: a model learns what they say, and what does not fit is refused."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import is_adapted, randomize, tiny_network

from keras_sid2 import AdamRecipe, Guidance, SiD2Model, SigmoidWeighting
from keras_sid2.conditions import ClassLabel, TextEmbedding
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.generation.request import SampleRequest
from keras_sid2.training.adapting import Described, preset_like

COLOURS = {"red": (0.8, -0.8, -0.8), "green": (-0.8, 0.8, -0.8), "blue": (-0.8, -0.8, 0.8)}
WORDS = [*COLOURS, "a", "square"]
LENGTH, WIDTH = 3, 8


class Words:
    """An encoder: each word of a few is a vector."""

    signature, length, width = "words#1", LENGTH, WIDTH

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked += texts
        found, table = np.zeros((len(texts), self.length, self.width), "float32"), np.eye(len(WORDS), self.width)
        for row, text in zip(found, texts, strict=True):
            if len(text.split()) > self.length:
                raise ValueError(f"{text!r} has more than {self.length} words: shorten it.")
            for i, word in enumerate(text.split()):
                row[i] = table[WORDS.index(word)]
        return found


TEXT = {"text": TextEmbedding(LENGTH, WIDTH, encoder=Words.signature)}


def model_of(conditions=TEXT, num_classes=None, **options):
    levels = [{"kind": "transformer", "channels": 16, "blocks": 1, "head_dim": 8}]
    given = dict(image_shape=(4, 4, 3), num_classes=num_classes, levels=levels, embedding_dim=16)
    keras.utils.set_random_seed(0)
    network = tiny_network(conditions=conditions, **given)
    recipe = AdamRecipe(1e-2, warmup_steps=10, ema_decay=0.95)
    return SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0), recipe=recipe, **options)


def data(count: int = 48) -> dict:
    """Squares of one colour, which a text says, and a class that says how bright."""
    names = [list(COLOURS)[i % 3] for i in range(count)]
    bright = np.arange(count) // 3 % 2
    values = np.array([COLOURS[name] for name in names], "float32") * (1.0 - 0.75 * bright[:, None])
    image = np.broadcast_to(values[:, None, None], (count, 4, 4, 3)).copy()
    return {"image": image, "text": Words()([f"a {name} square" for name in names]), "label": bright.astype("int32")}


@pytest.fixture(scope="module")
def trained():
    """Of both a text and a label."""
    model = model_of(num_classes=2, label_dropout=0.15)
    model.compile()
    model.fit(data(), batch_size=48, epochs=150, verbose=0)
    model.text_encoder = Words()
    return model


def colours(images) -> np.ndarray:
    return images.astype("float32").mean((1, 2)) / 127.5 - 1.0


def test_a_text_and_a_label_are_learnt_at_once(trained):
    wanted = np.array(list(COLOURS.values()))
    for label, scale in ((0, 1.0), (1, 0.25)):
        texts = [f"a {name} square" for name in COLOURS]
        drawn = trained.generate([label] * 3, text=texts, num_steps=12, seed=3)
        np.testing.assert_allclose(colours(drawn), scale * wanted, atol=0.3)


def test_text_is_the_condition_s_value_for_one_and_for_all(trained):
    encoder, options = Words(), {"num_steps": 2, "labels": [0, 1], "dtype": "float32"}
    values = encoder(["red square", "blue"])
    expected = trained.generate(conditions={"text": values}, **options)
    np.testing.assert_array_equal(trained.generate(text=["red square", "blue"], **options), expected)
    again = trained.generate(text=("red square", "blue"), text_encoder=encoder, **options)
    np.testing.assert_array_equal(again, expected)
    assert encoder.asked[2:] == ["red square", "blue"]
    for_all = trained.generate(conditions={"text": values[0]}, **options)
    np.testing.assert_array_equal(trained.generate(text="red square", **options), for_all)
    del options["labels"]
    assert trained.generate(text="blue", **options).shape == (1, 4, 4, 3)
    assert trained.generate(text="blue", num_images=2, **options).shape == (2, 4, 4, 3)


def test_a_negative_text_stands_for_no_text_alone(trained):
    options = {"num_steps": 2, "labels": [0, 1], "guidance": Guidance(3.0), "dtype": "float32", "text": "red"}
    usual, drawn = trained.generate(**options), trained.generate(negative_text="blue", **options)
    by_values = trained.generate(negative_conditions={"text": Words()(["blue"])[0]}, **options)
    np.testing.assert_array_equal(drawn, by_values)
    assert np.abs(drawn - usual).max() > 1e-3
    np.testing.assert_array_equal(trained.generate(negative_text=["", " "], **options), usual)
    np.testing.assert_array_equal(trained.generate(**{**options, "guidance": Guidance(3.0, one_batch=True)}), usual)


def test_a_negative_text_lowers_what_it_names(trained):
    options = {"num_steps": 12, "labels": [0] * 6, "seed": 1, "guidance": Guidance(4.0)}
    blue = [colours(trained.generate(text="", negative_text=text, **options))[:, 2].mean() for text in ("red", "blue")]
    assert blue[0] > blue[1] + 0.2


def test_an_empty_text_is_none_and_asks_no_encoder(trained):
    request = SampleRequest(trained, [0, 0], text=["", "red"], num_steps=2)
    assert not request.conditions["text"][0].any() and request.conditions["text"][1].any()
    assert "" not in trained.text_encoder.asked


def test_training_drops_texts_as_labels():
    model, count = model_of(num_classes=2, label_dropout=0.5), 400
    step = model.corrupted(data(count), model._step_keys(0, 0), model._dropout)
    dropped = np.asarray(keras.ops.convert_to_numpy(step["label"])) == 2
    assert 0.4 < dropped.mean() < 0.6
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(step["text"]).any((1, 2)), ~dropped)


class Other(Words):
    signature = "words#2"


class Wide(Words):
    width = 16


class Long(Words):
    length = 5


REFUSED = {
    "no text in the model": (
        lambda: model_of({}, num_classes=2),
        {"text": "red"},
        r"with one TextEmbedding, and this model has 0: its conditions are label\.",
    ),
    "no condition at all": (lambda: model_of({}), {"negative_text": "red"}, "its conditions are none"),
    "no encoder": (model_of, {"text": "red", "text_encoder": None}, r"encoder of the training data, words#1: give"),
    "another encoder": (model_of, {"text": "red", "text_encoder": Other()}, "by words#1, and text_encoder is words#2"),
    "no callable": (model_of, {"text": "red", "text_encoder": "words"}, "must be callable .* got 'words'"),
    "too long": (model_of, {"text": ["red", "a red red square"]}, "'a red red square' has more than 3 words"),
    "too long for the model": (
        model_of,
        {"text": ["red", "a red red square"], "text_encoder": Long()},
        "reads 3 tokens, and 'a red red square' has more",
    ),
    "another width": (
        model_of,
        {"text": "red", "text_encoder": Wide()},
        r"must give \[1, 'tokens', 8\] .* \[1, 3, 16\]",
    ),
    "none of them": (model_of, {"text": []}, r"text must be a text, or a list of at least one, got \[\]"),
    "no strings": (model_of, {"negative_text": [1]}, r"negative_text must be a text, or a list .*, got \[1\]"),
    "twice": (
        model_of,
        {"text": "red", "conditions": {"text": np.zeros((3, 8))}},
        r"Give text or conditions\['text'\]",
    ),
    "other counts": (model_of, {"text": ["red", "red"], "num_images": 3}, "got 2 text and num_images=3"),
    "no guidance": (model_of, {"text": "red", "negative_text": "blue"}, "negative_conditions are for guidance"),
}


@pytest.mark.parametrize("make, options, told", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(make, options, told):
    with pytest.raises(ValueError, match=told):
        SampleRequest(make(), **{"text_encoder": Words(), **options})


def test_shorter_values_are_padded_and_any_encoder_serves_where_none_is_named():
    model = model_of({"caption": TextEmbedding(5, WIDTH)})
    model.text_encoder = Other()
    request = SampleRequest(model, text=["red square"], num_steps=2)
    assert request.conditions["caption"].shape == (1, 5, WIDTH) and request.conditions["caption"][0].any(-1).sum() == 2


def test_an_encoder_of_keras_is_no_part_of_the_model(tmp_path):
    model = model_of()
    before = len(model.variables)
    model.text_encoder = keras.Sequential([keras.layers.Dense(3)])
    model.text_encoder.build((None, 4))
    assert len(model.variables) == before and model.text_encoder not in model._flatten_layers()
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").text_encoder is None


# -- models without a text that become models with one -----------------------------------------------------------------


def losses(model) -> np.ndarray:
    return model.losses(data(12), use_ema=False)


def test_a_trained_model_takes_a_text_and_is_what_it_was_and_back_again():
    plain = model_of({}, num_classes=2)
    randomize(plain.network)
    with_text = plain.adapt(conditions={"label": ClassLabel(2), **TEXT}, use_ema=False, verbose=False)
    np.testing.assert_allclose(losses(with_text), losses(plain), rtol=1e-6)
    rows = {part: (what, how) for part, _, what, how in with_text.adaptation.rows}
    assert rows["attention to a text"] == ("new", "its output zeros") and rows["embedding: text"] == ("new", "zeros")
    randomize(with_text.network)
    back = with_text.adapt(conditions={"label": ClassLabel(2)}, use_ema=False, verbose=False)
    silent = {**data(12), "text": np.zeros((12, LENGTH, WIDTH), "float32")}
    assert np.abs(losses(with_text) - with_text.losses(silent, use_ema=False)).max() > 1e-3
    np.testing.assert_allclose(losses(back), with_text.losses(silent, use_ema=False), rtol=1e-4)


def test_a_text_may_become_longer_and_not_another():
    model = model_of()
    longer = model.adapt(conditions={"text": TextEmbedding(7, WIDTH)}, verbose=False)
    assert longer.conditions["text"] == TextEmbedding(7, WIDTH)
    for other in (TextEmbedding(LENGTH, 6), TextEmbedding(LENGTH, WIDTH, "words#2"), ClassLabel(3)):
        with pytest.raises(ValueError, match="The condition text was .* and cannot become"):
            model.adapt(conditions={"text": other})
    named = model.adapt(conditions={"text": TextEmbedding(LENGTH, WIDTH, "minilm@5#1")}, verbose=False)
    for same in ("minilm@9#1", "transformers:./minilm@9#1"):  # of weights with the same hash
        longer = named.adapt(conditions={"text": TextEmbedding(9, WIDTH, same)}, verbose=False)
        assert longer.conditions["text"].encoder == same
    whitened = named.adapt(conditions={"text": dataclasses.replace(named.conditions["text"], whitened=True)})
    assert not is_adapted(whitened.network.whitening)
    texts = {"conditions": {"text": np.ones((1, *named.conditions["text"].shape), "float32")}}
    drawn = [each.generate(num_images=1, num_steps=2, dtype="float32", **texts) for each in (named, whitened)]
    np.testing.assert_allclose(*drawn, atol=1e-5)
    with pytest.raises(ValueError, match="The condition text was .*whitened=True.* and cannot become"):
        whitened.adapt(conditions={"text": named.conditions["text"]})
    with pytest.raises(ValueError, match="The condition text was .* and cannot become"):
        named.adapt(conditions={"text": TextEmbedding(9, WIDTH, "minilm@9#2")})
    with pytest.raises(ValueError, match="The text text cannot become the text caption"):
        model.adapt(conditions={"caption": TEXT["text"]})


def test_a_preset_like_a_model_without_a_text_takes_one_from_the_data():
    model = model_of({}, num_classes=2, label_dropout={"label": 0.2})
    described = Described(model.network, model.objective, model.label_dropout, model.recipe)
    preset = preset_like(described, (4, 4, 3), 2, texts=TEXT)
    whitened = dataclasses.replace(TEXT["text"], whitened=True)
    assert preset.conditions == {"label": ClassLabel(2), "text": whitened}
    reader = Described(model_of(TEXT).network, model.objective, model.label_dropout, model.recipe)
    assert preset_like(reader, (4, 4, 3), None, texts={"text": whitened}).conditions == TEXT  # as it was trained
    assert preset.label_dropout == {"label": 0.2, "text": 0.1}
    never = preset_like(dataclasses.replace(described, label_dropout=0.0), (4, 4, 3), 2, texts=TEXT)
    assert never.label_dropout == {"label": 0.0, "text": 0.1}
